//! Uploads: whole, cut off, twice, from two replicas, while a replica stops.

use futures::stream::{self, StreamExt as _};
use runtime::content_keys::ContentKeys;
use tonic::Code;
use wire::api::v1;

use crate::fleet::{Content, Fleet, fetch, noise, push, quiet, reason, soon, until};

const CHANNEL: &str = "definitions/ips";

#[tokio::test(flavor = "multi_thread")]
async fn a_content_becomes_a_revision_and_comes_back() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&quiet()).await;
    let content = Content::new(CHANNEL, noise(1, 3_000_000));
    let pushed = push(&mut replica.api, &content).await.unwrap();
    assert!(pushed.created);
    assert_eq!((pushed.revision.revision, pushed.revision.bytes), (1, 3_000_000));
    assert_eq!(pushed.sent, content.chunks.len());
    assert_eq!(fetch(&mut replica.api, CHANNEL, 0).await.unwrap(), content.bytes);
    let (manifest, index) = fleet.index(&pushed.revision).await;
    assert_eq!((manifest.content_bytes(), index.deltas().len()), (3_000_000, 0));

    let nothing = Content::new("empty", Vec::new());
    let pushed = push(&mut replica.api, &nothing).await.unwrap();
    assert_eq!((pushed.sent, pushed.revision.revision, pushed.revision.bytes), (0, 1, 0));
    assert_eq!(fetch(&mut replica.api, "empty", 1).await.unwrap(), b"");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_costs_nothing_and_a_similar_one_little() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&quiet()).await;
    let mut bytes = noise(2, 4_000_000);
    let first = Content::new(CHANNEL, bytes.clone());
    push(&mut replica.api, &first).await.unwrap();
    let end = fleet.content_end().await;
    let again = push(&mut replica.api, &first).await.unwrap();
    assert_eq!((again.sent, again.created, again.revision.revision), (0, false, 1));
    assert_eq!(fleet.content_end().await, end, "nothing was stored");

    bytes.splice(2_000_000..2_000_000, *b"inserted");
    let second = push(&mut replica.api, &Content::new(CHANNEL, bytes.clone())).await.unwrap();
    assert!(second.sent <= 3, "{} chunks were sent", second.sent);
    assert_eq!(fetch(&mut replica.api, CHANNEL, 2).await.unwrap(), bytes);
    let elsewhere = push(&mut replica.api, &Content::new("other", bytes)).await.unwrap();
    assert_eq!((elsewhere.sent, elsewhere.created), (0, true), "channels share chunks");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_broke_off_goes_on_where_it_was() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&quiet()).await;
    let content = Content::new(CHANNEL, noise(3, 8_000_000));
    let begun = replica.api.begin_upload(content.begin()).await.unwrap().into_inner();
    let chunks = begun.missing.len();
    let messages = content.messages(&begun.manifest, &begun.missing);
    // All but one are sent, then the line is cut: the call never ends by itself.
    let cut = stream::iter(messages[..chunks - 1].to_vec()).chain(stream::pending());
    let mut api = replica.api.clone();
    let call = tokio::spawn(async move { api.upload_chunks(cut).await.map(drop) });
    until(async || fleet.content_end().await > 2).await;
    call.abort();
    // What arrived is stored.
    until(async || fleet.pieces().await.len() == chunks).await;

    let again = replica.api.begin_upload(content.begin()).await.unwrap().into_inner();
    assert_eq!(again.manifest, begun.manifest);
    assert_eq!(again.missing, begun.missing[chunks - 1..], "only the rest is sent");
    let rest = content.messages(&again.manifest, &again.missing);
    replica.api.upload_chunks(stream::iter(rest)).await.unwrap();
    let finished = replica.api.finish_upload(content.finish(&again.manifest)).await.unwrap().into_inner();
    assert!(finished.created);
    assert_eq!(fetch(&mut replica.api, CHANNEL, 1).await.unwrap(), content.bytes);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_uploads_and_make_one_revision() {
    let fleet = Fleet::start().await;
    let [mut a, mut b] = [fleet.replica(&quiet()).await, fleet.replica(&quiet()).await];
    let content = Content::new(CHANNEL, noise(4, 2_000_000));
    let begun = a.api.begin_upload(content.begin()).await.unwrap().into_inner();
    let same = b.api.begin_upload(content.begin()).await.unwrap().into_inner();
    assert_eq!((&same.manifest, &same.missing), (&begun.manifest, &begun.missing));
    let (one, two) = begun.missing.split_at(begun.missing.len() / 2);
    let first = stream::iter(content.messages(&begun.manifest, one));
    let second = stream::iter(content.messages(&begun.manifest, two));
    let (first, second) = tokio::join!(a.api.upload_chunks(first), b.api.upload_chunks(second));
    assert_eq!(first.unwrap().into_inner().chunks as usize, one.len());
    assert_eq!(second.unwrap().into_inner().chunks as usize, two.len());
    let finish = || content.finish(&begun.manifest);
    let (one, two) = tokio::join!(a.api.finish_upload(finish()), b.api.finish_upload(finish()));
    let [one, two] = [one, two].map(|finished| finished.unwrap().into_inner());
    assert!(one.created != two.created, "one of them made it");
    assert_eq!(one.revision, two.revision);
    let channel = v1::GetChannelRequest { channel: CHANNEL.to_owned(), min_revision: two.store_revision };
    let channel = b.api.get_channel(channel).await.unwrap().into_inner();
    assert_eq!(channel.revisions.len(), 1);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_hands_its_uploads_on() {
    let fleet = Fleet::start().await;
    let [mut a, mut b] = [fleet.replica(&quiet()).await, fleet.replica(&quiet()).await];
    let content = Content::new(CHANNEL, noise(5, 4_000_000));
    let begun = a.api.begin_upload(content.begin()).await.unwrap().into_inner();
    let half = content.messages(&begun.manifest, &begun.missing[..begun.missing.len() / 2]);
    let (sent, taken) = tokio::sync::oneshot::channel::<()>();
    let mut sent = Some(sent);
    let last = half.len() - 1;
    let endless = stream::iter(half.into_iter().enumerate()).map(move |(at, message)| {
        if at == last {
            drop(sent.take());
        }
        message
    });
    let mut api = a.api.clone();
    let call = tokio::spawn(async move { api.upload_chunks(endless.chain(stream::pending())).await });
    drop(taken.await);
    soon(a.stop()).await;
    let ended = call.await.unwrap().unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "STOPPING"));
    let pushed = push(&mut b.api, &content).await.unwrap();
    assert!(pushed.sent < content.chunks.len(), "what was taken in is stored");
    assert_eq!(fetch(&mut b.api, CHANNEL, 1).await.unwrap(), content.bytes);
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_may_ask_for_signatures_of_several_keys() {
    let mut fleet = Fleet::start().await;
    let other = runtime::keys::load(&fleet.key("other.key")).unwrap();
    fleet.keys.content_public_key = vec![other.verifying_key()];
    fleet.keys.content_threshold = 2;
    let mut replica = fleet.replica(&quiet()).await;
    let content = Content::new(CHANNEL, noise(6, 300_000));
    let begun = replica.api.begin_upload(content.begin()).await.unwrap().into_inner();
    let messages = content.messages(&begun.manifest, &begun.missing);
    replica.api.upload_chunks(stream::iter(messages)).await.unwrap();
    let refused = replica.api.finish_upload(content.finish(&begun.manifest)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "SIGNATURES"));
    assert!(refused.message().contains("2 different content keys and 1 hold"), "{}", refused.message());

    let sign = |key| {
        let envelope =
            wire::envelope::seal(wire::envelope::MANIFEST, begun.manifest_payload.clone(), key).signatures;
        let signature = envelope.into_iter().next().unwrap();
        v1::ContentSignature { key_id: signature.key_id.to_vec(), signature: signature.signature.to_vec() }
    };
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let mut finish = content.finish(&begun.manifest);
    finish.signatures = vec![sign(&stranger)];
    assert_eq!(reason(&replica.api.finish_upload(finish.clone()).await.unwrap_err()), "SIGNATURES");
    finish.signatures = vec![sign(&stranger), sign(&other)];
    let finished = replica.api.finish_upload(finish).await.unwrap().into_inner();
    // Opened with a threshold of two.
    assert_eq!(ContentKeys::load(&fleet.keys).unwrap().trust.threshold, 2);
    fleet.index(&finished.revision.unwrap()).await;
    // Who begins the same again takes no signature away.
    replica.api.begin_upload(content.begin()).await.unwrap();
    let revision = replica.api.finish_upload(content.finish(&begun.manifest)).await.unwrap().into_inner();
    assert!(!revision.created);
    fleet.index(&revision.revision.unwrap()).await;
    replica.stop().await;
}
