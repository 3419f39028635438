//! Uploads that are cut, hurried, refused, and interleaved with garbage collection.

use live::{Faults, Fleet, Lane, Process, Proxy, Tree, eventually};
use tonic::Code;

use super::{CHANNEL, number, on_disk, push, push_with, raw, revision};

/// Bytes that a client may have had on their way when the connection was cut: they are sent again.
const IN_FLIGHT: u64 = 512 << 10;
/// What gRPC and the list of chunks add to an upload.
const OVERHEAD: u64 = 128 << 10;

/// A tree that costs on the wire what it weighs.
fn tree() -> Tree {
    Tree::dense(1, 6 << 20)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_at_99_percent_sends_only_the_rest() {
    let (fleet, tree) = (Fleet::start().await, tree());
    let at = fleet.replicas("content")[0];
    let proxy = Proxy::start(&fleet.services[at].address).await;
    let cli = fleet.cli_at(proxy.address());
    let cut = tree.bytes() / 100 * 99;
    proxy.set("", Faults::up(Lane { cut_after: Some(cut), ..Lane::default() }));
    let path = on_disk(&fleet, &tree).to_string_lossy().into_owned();
    // The CLI goes on by itself, over a new connection.
    let pushed = cli.json(&format!("content push {CHANNEL} {path}")).await;
    assert_eq!(pushed["created"], true, "{pushed}");
    assert!(proxy.connections("").0 > 1, "the first connection was cut");
    let (sent, bound) = (proxy.bytes_up(""), tree.bytes() + IN_FLIGHT + OVERHEAD);
    assert!(sent <= bound, "{sent} bytes sent for {}; at most {bound}", tree.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_push_goes_on_where_it_was() {
    let (fleet, tree) = (Fleet::start().await, tree());
    let at = fleet.replicas("content")[0];
    let proxy = Proxy::start(&fleet.services[at].address).await;
    let path = on_disk(&fleet, &tree).to_string_lossy().into_owned();
    let held = tree.bytes() / 10 * 9;
    proxy.set("", Faults::up(Lane { hold_after: Some(held), ..Lane::default() }));
    let env = fleet.cli_at(proxy.address()).env();
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut cli = Process::start(fleet.dir(), "push", "muster", &["content", "push", CHANNEL, &path], &env);
    live::until("nine tenths are on the way", || {
        let up = proxy.bytes_up("");
        if up >= held { Ok(()) } else { Err(format!("{up}: {}", cli.log())) }
    })
    .await;
    cli.kill().await;
    proxy.calm();
    let before = proxy.bytes_up("");
    let cli = fleet.cli_at(proxy.address());
    let pushed = cli.json(&format!("content push {CHANNEL} {path}")).await;
    assert_eq!(pushed["created"], true, "{pushed}");
    let rest = proxy.bytes_up("") - before;
    assert!(rest <= tree.bytes() - held + IN_FLIGHT + OVERHEAD, "{rest} of {}", tree.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_takes_what_it_announced_and_nothing_else() {
    let fleet = Fleet::start().await;
    let mut api = raw::content(&fleet).await;
    let upload = raw::Upload::of(CHANNEL, &Tree::made(1, 1 << 20));
    let begun = api.begin_upload(upload.begin.clone()).await.expect("it begins").into_inner();
    let all: Vec<u32> = (0..u32::try_from(upload.chunks.len()).expect("few")).collect();
    assert_eq!(begun.missing, all);
    let manifest = begun.manifest;

    let early = api.finish_upload(upload.finish(&manifest)).await.expect_err("chunks are missing");
    assert_eq!(early.code(), Code::FailedPrecondition, "{early}");
    let good = upload.chunk(&manifest, 0);
    let mut bomb = codec::frame::compress(&vec![0; 64 << 20]);
    let zeros = bomb.clone();
    bomb.truncate(bomb.len() / 2);
    for (what, frame) in [
        ("another chunk", upload.chunk(&manifest, 1).frame.to_vec()),
        ("half a frame", good.frame[..good.frame.len() / 2].to_vec()),
        ("no frame", b"plain text".to_vec()),
        ("nothing", Vec::new()),
        ("64 MiB of zeros", zeros),
        ("half a bomb", bomb),
        ("more than a chunk", vec![0; 600 << 10]),
    ] {
        let mut bad = good.clone();
        bad.frame = frame.into();
        let refused = raw::send(&mut api, vec![bad]).await.expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
        assert!(refused.message().contains("chunk 0"), "{what}: {refused}");
    }
    let mut beyond = good.clone();
    beyond.position = u32::MAX;
    let refused = raw::send(&mut api, vec![beyond]).await.expect_err("no such position");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let unknown = upload.chunk(&[7; 32], 0);
    let refused = raw::send(&mut api, vec![unknown]).await.expect_err("no such upload");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("begin it again"), "{refused}");

    // What was sent stays, whatever came after it in the same call.
    let (first, rest) = all.split_at(all.len() / 2);
    let mut with_bad_end = upload.chunks(&manifest, first);
    let mut bad = good.clone();
    bad.frame = b"plain text".to_vec().into();
    with_bad_end.push(bad);
    let _refused = raw::send(&mut api, with_bad_end).await.expect_err("the last one is bad");
    let resumed = api.begin_upload(upload.begin.clone()).await.expect("it goes on").into_inner();
    assert_eq!((resumed.manifest, resumed.missing), (manifest.clone(), rest.to_vec()));
    let stored = raw::send(&mut api, upload.chunks(&manifest, rest)).await.expect("they are taken");
    assert_eq!(stored as usize, rest.len());
    let finished = api.finish_upload(upload.finish(&manifest)).await.expect("all is there").into_inner();
    assert!(finished.created);
    let again = api.finish_upload(upload.finish(&manifest)).await.expect("a repeat is the same").into_inner();
    assert!(!again.created);
    assert_eq!(again.revision.map(|one| one.revision), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_collection_leaves_uploads_alone() {
    let fleet = Fleet::start().await;
    let content = fleet.cli("content");
    let mut api = raw::content(&fleet).await;
    let tree = Tree::made(1, 1 << 20);
    let upload = raw::Upload::of(CHANNEL, &tree);
    let begun = api.begin_upload(upload.begin.clone()).await.expect("it begins").into_inner();
    let (first, rest) = begun.missing.split_at(begun.missing.len() / 2);
    let _ = raw::send(&mut api, upload.chunks(&begun.manifest, first)).await.expect("they are taken");
    let collected = content.json("content gc").await;
    assert_eq!(number(&collected["chunks"]), 0, "{collected}");
    let _ = raw::send(&mut api, upload.chunks(&begun.manifest, rest)).await.expect("they are taken");
    let finished = api.finish_upload(upload.finish(&begun.manifest)).await.expect("nothing was lost");
    assert!(finished.into_inner().created);

    // Side by side, again and again: garbage to collect, and uploads that reuse what is garbage by then.
    let collecting = async {
        for _ in 0..12 {
            let collected = content.run("content gc -o json").await;
            assert_eq!(collected.code, 0, "{}", collected.stderr);
        }
    };
    let trees: Vec<Tree> = (0..4).map(|n| Tree::made(n, 300_000)).collect();
    let pushing = async {
        for round in 1..=6_u32 {
            let channel = format!("round/{}", round % 2);
            for (at, tree) in trees.iter().enumerate() {
                let pushed = push(&fleet, &channel, tree).await;
                let number = number(&pushed["revision"]["revision"]);
                if at % 2 == 0 {
                    let _ = content.run(&format!("content retire {channel} {number} --yes")).await.ok();
                }
            }
        }
    };
    tokio::join!(collecting, pushing);
    for channel in ["round/0", "round/1", CHANNEL] {
        let shown = content.json(&format!("content show {channel}")).await;
        let to = fleet.dir().join(format!("got-{}", channel.replace('/', "-")));
        let _ = content.run(&format!("content fetch {channel} --to {}", to.display())).await.ok();
        let wanted = if channel == CHANNEL { &tree } else { &trees[3] };
        assert_eq!(&Tree::read(&to).expect("it was written"), wanted, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_beyond_the_quota_is_refused_before_it_starts() {
    let fleet = Fleet::start_with(&["--content-quota", "2MiB"]).await;
    let _ = push(&fleet, CHANNEL, &Tree::dense(1, 400_000)).await;
    let path = on_disk(&fleet, &tree()).to_string_lossy().into_owned();
    let store = raw::Store::of(&fleet).await;
    let before = store.subjects("chunk").await;
    let said = fleet.cli("content").run(&format!("content push {CHANNEL} {path}")).await.refused(3);
    for part in ["2.0 MiB", "--content-quota", "muster content gc"] {
        assert!(said.contains(part), "{said}\nwithout: {part}");
    }
    assert_eq!(store.subjects("chunk").await, before, "nothing of it was stored");
    // What is there is not harmed, and what fits is taken.
    let pushed = push(&fleet, CHANNEL, &Tree::dense(2, 200_000)).await;
    assert_eq!(pushed["created"], true, "{pushed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_take_the_same_and_different_content_at_once() {
    let fleet = Fleet::with_content_replicas(2).await;
    let [one, two] = fleet.replicas("content")[..] else { panic!("two replicas") };
    let (one, two) = (fleet.cli_of(one), fleet.cli_of(two));
    let same = Tree::made(1, 1 << 20);
    let (a, b) =
        tokio::join!(push_with(&one, &fleet, CHANNEL, &same), push_with(&two, &fleet, CHANNEL, &same));
    let created = [&a, &b].map(|pushed| pushed["created"].as_bool().unwrap_or(false));
    assert_eq!(created.iter().filter(|&&created| created).count(), 1, "{a} {b}");
    assert_eq!([&a, &b].map(|pushed| number(&pushed["revision"]["revision"])), [1, 1]);

    let others: Vec<Tree> = (2..6).map(|n| Tree::made(n, 400_000)).collect();
    let (a, b) = tokio::join!(
        async {
            (
                push_with(&one, &fleet, CHANNEL, &others[0]).await,
                push_with(&one, &fleet, CHANNEL, &others[1]).await,
            )
        },
        async {
            (
                push_with(&two, &fleet, CHANNEL, &others[2]).await,
                push_with(&two, &fleet, CHANNEL, &others[3]).await,
            )
        },
    );
    let mut numbers: Vec<u64> =
        [a.0, a.1, b.0, b.1].iter().map(|pushed| number(&pushed["revision"]["revision"])).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3, 4, 5]);
    // An upload that one replica began goes on at the other.
    let upload = raw::Upload::of(CHANNEL, &Tree::made(9, 600_000));
    let (mut first, mut second) = (raw::replica(&fleet, 0).await, raw::replica(&fleet, 1).await);
    let begun = first.begin_upload(upload.begin.clone()).await.expect("it begins").into_inner();
    let _ = raw::send(&mut second, upload.chunks(&begun.manifest, &begun.missing)).await.expect("taken");
    let finished = second.finish_upload(upload.finish(&begun.manifest)).await.expect("it ends").into_inner();
    assert_eq!(finished.revision.map(|one| one.revision), Some(6));
    for cli in [&one, &two] {
        eventually("both replicas show all", async || {
            let shown = cli.json(&format!("content show {CHANNEL} 6")).await;
            if number(&shown["revision"]["revision"]) == 6 { Ok(()) } else { Err(shown.to_string()) }
        })
        .await;
    }
    assert_eq!(number(&revision(&fleet, CHANNEL, 6).await["revision"]["files"]), 5);
}
