//! Bad input, and what is refused with the way out.

use futures::stream;
use tonic::{Code, Status};
use wire::api::v1;

use crate::fleet::{Client, Content, Fleet, Replica, fetch, noise, push, quiet, reason};

const CHANNEL: &str = "rules";

async fn started() -> (Fleet, Replica) {
    let fleet = Fleet::start().await;
    let replica = fleet.replica(&quiet()).await;
    (fleet, replica)
}

#[track_caller]
fn check(refused: &Status, code: Code, text: &str) {
    assert_eq!(refused.code(), code, "{}", refused.message());
    assert!(refused.message().contains(text), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn evil_manifests_are_refused_and_nothing_is_stored() {
    let (fleet, mut replica) = started().await;
    let good = || Content::new(CHANNEL, noise(1, 200_000)).begin();
    let mut cases: Vec<(v1::BeginUploadRequest, &str)> = Vec::new();
    let mut case = |change: &dyn Fn(&mut v1::BeginUploadRequest), text| {
        let mut request = good();
        change(&mut request);
        cases.push((request, text));
    };
    let paths = ["/etc/passwd", "../x", "a/../../x", "a//b", ".", "", "a\0b", "c:/x/..", "a/"];
    for path in paths {
        case(&|request| request.files[0].path = path.to_owned(), "files[0].path");
    }
    case(&|request| request.files[0].path = "x".repeat(10_000), "files[0].path");
    case(&|request| request.channel = "../x".to_owned(), "channel");
    case(&|request| request.channel = "a.b".to_owned(), "channel");
    case(&|request| request.files.clear(), "names no files");
    case(&|request| request.files[0].bytes += 1, "both must be the whole content");
    case(&|request| request.files[0].digest.truncate(31), "files[0].digest");
    case(&|request| request.chunk_digests.truncate(33), "chunk_digests");
    case(&|request| request.chunk_bytes[0] = 0, "has a chunk of 0 bytes");
    case(&|request| request.chunk_bytes[0] = u32::MAX, "has a chunk of 4294967295 bytes");
    case(&|request| request.digest.clear(), "digest");
    case(&|request| request.files.extend(request.files.clone()), "out of order");
    let twice = |request: &mut v1::BeginUploadRequest| {
        let mut other = request.files[0].clone();
        other.path = "Data".to_owned();
        other.bytes = 0;
        request.files.insert(0, other);
    };
    case(&twice, "where case makes no difference");
    case(&|request| request.files = vec![request.files[0].clone(); 5000], "at most 4096");
    for (request, text) in cases {
        let refused = replica.api.begin_upload(request).await.unwrap_err();
        check(&refused, Code::InvalidArgument, text);
    }
    let huge = v1::BeginUploadRequest { chunk_digests: vec![0; 5 << 20], ..good() };
    assert!(replica.api.begin_upload(huge).await.is_err());
    assert_eq!(fleet.content_end().await, 0, "nothing was stored");
    replica.stop().await;
}

async fn send(api: &mut Client, messages: Vec<v1::UploadChunksRequest>) -> Result<u32, Status> {
    api.upload_chunks(stream::iter(messages)).await.map(|stored| stored.into_inner().chunks)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_chunks_are_refused_by_position_and_good_ones_stay() {
    let (fleet, mut replica) = started().await;
    let content = Content::new(CHANNEL, noise(2, 2_000_000));
    let begun = replica.api.begin_upload(content.begin()).await.unwrap().into_inner();
    let messages = content.messages(&begun.manifest, &begun.missing);
    let with = |at: usize, frame: Vec<u8>| {
        let mut wrong = messages.clone();
        wrong[at].frame = frame.into();
        wrong
    };
    let flipped = {
        let mut frame = messages[3].frame.to_vec();
        let middle = frame.len() / 2;
        frame[middle] ^= 1;
        frame
    };
    let bomb = codec::frame::compress(&vec![0; 64 << 20]);
    let cases = [
        (with(3, flipped), "frame of chunk 3"),
        (with(4, messages[5].frame.to_vec()), "frame of chunk 4"),
        (with(2, Vec::new()), "frame of chunk 2"),
        (with(2, bomb), "frame of chunk 2"),
        (with(1, vec![7; 600_000]), "frame of chunk 1 is 600000 bytes long"),
        (with(1, messages[1].frame[..9].to_vec()), "frame of chunk 1"),
    ];
    for (wrong, text) in cases {
        let refused = send(&mut replica.api, wrong).await.unwrap_err();
        check(&refused, Code::InvalidArgument, text);
    }
    let stored = fleet.pieces().await.len() - 1;
    assert!((4..messages.len()).contains(&stored), "{stored} good chunks stay");
    let mut behind = messages[..1].to_vec();
    behind[0].position = 4_000_000_000;
    let refused = send(&mut replica.api, behind).await.unwrap_err();
    check(&refused, Code::InvalidArgument, "position 4000000000 is behind the end");
    let mut nameless = messages.clone();
    nameless[0].manifest.clear();
    let refused = send(&mut replica.api, nameless).await.unwrap_err();
    check(&refused, Code::InvalidArgument, "manifest must name the upload");
    assert_eq!(send(&mut replica.api, Vec::new()).await.unwrap(), 0);

    let pushed = push(&mut replica.api, &content).await.unwrap();
    assert_eq!(pushed.sent, content.chunks.len() - stored);
    assert_eq!(fetch(&mut replica.api, CHANNEL, 1).await.unwrap(), content.bytes);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_finished_when_all_of_it_is_there() {
    let (_fleet, mut replica) = started().await;
    let content = Content::new(CHANNEL, noise(3, 1_000_000));
    let unknown = replica.api.finish_upload(content.finish(&[7; 32])).await.unwrap_err();
    check(&unknown, Code::FailedPrecondition, "begin it again");
    assert_eq!(reason(&unknown), "NO_UPLOAD");
    let mut message = content.messages(&[7; 32], &[0]);
    let unknown = send(&mut replica.api, message.clone()).await.unwrap_err();
    assert_eq!(reason(&unknown), "NO_UPLOAD");

    let begun = replica.api.begin_upload(content.begin()).await.unwrap().into_inner();
    let chunks = begun.missing.len();
    message[0].manifest.clone_from(&begun.manifest);
    send(&mut replica.api, message).await.unwrap();
    let early = replica.api.finish_upload(content.finish(&begun.manifest)).await.unwrap_err();
    let text = format!("{} of {chunks} chunks are not there, the first at position 1", chunks - 1);
    check(&early, Code::FailedPrecondition, &text);
    assert_eq!(reason(&early), "MISSING_CHUNKS");
    let elsewhere =
        v1::FinishUploadRequest { channel: "other".to_owned(), ..content.finish(&begun.manifest) };
    let refused = replica.api.finish_upload(elsewhere).await.unwrap_err();
    check(&refused, Code::InvalidArgument, "channel must be rules");
    for (label, note, text) in
        [("x".repeat(65), String::new(), "label"), (String::new(), "\u{7}".into(), "note")]
    {
        let request = v1::FinishUploadRequest { label, note, ..content.finish(&begun.manifest) };
        check(&replica.api.finish_upload(request).await.unwrap_err(), Code::InvalidArgument, text);
    }
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_is_kept_and_the_refusal_says_the_way_out() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&content::Config { content_quota: 1_500_000, ..quiet() }).await;
    push(&mut replica.api, &Content::new(CHANNEL, noise(4, 1_000_000))).await.unwrap();
    let more = Content::new(CHANNEL, noise(5, 1_000_000));
    let refused = replica.api.begin_upload(more.begin()).await.unwrap_err();
    check(&refused, Code::ResourceExhausted, "the quota for content is 1.4 MiB");
    for part in ["are used", "more", "muster content gc", "--content-quota"] {
        check(&refused, Code::ResourceExhausted, part);
    }
    assert_eq!(reason(&refused), "QUOTA");
    // What compresses well is let in by the other revisions' measure, and still counted when it comes.
    let listed = replica.api.list_channels(v1::ListChannelsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.quota_bytes, 1_500_000);
    assert!((1_000_000..1_200_000).contains(&listed.stored_bytes), "{}", listed.stored_bytes);
    replica.stop().await;
}
