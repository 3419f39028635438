//! Retention and garbage collection: what goes, what stays, and uploads meanwhile.

use std::time::Duration;

use content::Config;
use domain::Timestamp;
use domain::catalog::{Entry, Sweep};
use domain::content::census::Holders;
use domain::content::retention::Piece;
use domain::content::{Census, ContentPointer, ContentRevision};
use futures::stream;
use runtime::clock;
use tonic::Code;
use wire::api::v1;

use crate::fleet::{Client, Content, Fleet, fetch, noise, push, quiet, reason, soon, until};

const CHANNEL: &str = "rules";

/// Keeps nothing but what is in use.
fn forgetful() -> Config {
    Config { keep_revisions: 0, keep_for: Duration::ZERO, ..quiet() }
}

async fn collect(api: &mut Client, dry_run: bool) -> v1::CollectGarbageResponse {
    api.collect_garbage(v1::CollectGarbageRequest { dry_run }).await.unwrap().into_inner()
}

/// Contents of which each shares its first half with all others.
fn version(number: u64) -> Content {
    let mut bytes = noise(0, 1_000_000);
    bytes.extend(noise(number, 1_000_000));
    Content::new(CHANNEL, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_needs_goes_and_nothing_else() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&forgetful()).await;
    let api = &mut replica.api;
    for number in 1..=5 {
        push(api, &version(number)).await.unwrap();
    }
    // 5 is the newest, 3 is staged, 2 is named by a group.
    let promote = v1::PromoteRequest {
        selector: crate::fleet::numbered(CHANNEL, 3),
        stage: "stable".to_owned(),
        ..v1::PromoteRequest::default()
    };
    api.promote(promote).await.unwrap();
    fleet.group("web", "/web", CHANNEL, ContentPointer::Revision(ContentRevision(2))).await;
    let before = fleet.pieces().await;

    let planned = collect(api, true).await;
    assert!(planned.dry_run);
    assert_eq!(fleet.pieces().await, before, "a dry run deletes nothing");
    let retired: Vec<u32> = planned.retired.iter().map(|it| it.revision).collect();
    assert_eq!(retired, [1, 4]);
    let done = collect(api, false).await;
    let counts = |it: &v1::CollectGarbageResponse| (it.retired.clone(), it.chunks, it.manifests);
    assert_eq!(counts(&done), counts(&planned), "as it was planned");
    assert_eq!(done.manifests, 2);
    let (freed, expected) = (done.freed_bytes, planned.freed_bytes);
    assert!(freed >= expected && freed < expected + expected / 10, "{freed} {expected}");
    assert!((2_000_000..2_300_000).contains(&freed), "the halves that only they had");
    for number in [2, 3, 5] {
        assert_eq!(fetch(api, CHANNEL, number).await.unwrap(), version(u64::from(number)).bytes);
    }
    assert_eq!(fetch(api, CHANNEL, 4).await.unwrap_err().code(), Code::NotFound);
    let end = fleet.content_end().await;
    let again = collect(api, false).await;
    assert_eq!((again.chunks, again.manifests, again.freed_bytes), (0, 0, 0));
    assert_eq!(fleet.content_end().await, end);
    // What went comes back as a new revision.
    assert_eq!(push(api, &version(4)).await.unwrap().revision.revision, 6);
    assert_eq!(fetch(api, CHANNEL, 6).await.unwrap(), version(4).bytes);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_is_fetching_stays_and_nothing_goes_while_that_is_not_known() {
    let fleet = Fleet::start().await;
    let fetching = |revision| Holders {
        channel: CHANNEL.parse().unwrap(),
        revision: ContentRevision(revision),
        active: 0,
        fetching: 1,
    };
    let mut replica = fleet.replica(&forgetful()).await;
    let api = &mut replica.api;
    for number in 1..=3 {
        push(api, &version(number)).await.unwrap();
    }
    fleet.census.send_replace(Some(Census { replica: 1, holders: vec![fetching(1)] }));
    until(async || collect(api, true).await.retired.len() == 1).await;
    let done = collect(api, false).await;
    assert_eq!(done.retired.iter().map(|it| it.revision).collect::<Vec<_>>(), [2]);
    assert_eq!(fetch(api, CHANNEL, 1).await.unwrap(), version(1).bytes, "while an agent fetches it");

    // A replica that starts while presence is away has not heard of the agent.
    fleet.census.send_replace(None);
    replica.stop().await;
    let mut replica = fleet.replica(&forgetful()).await;
    let refused = replica.api.collect_garbage(v1::CollectGarbageRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "NO_CENSUS"));
    assert_eq!(fetch(&mut replica.api, CHANNEL, 1).await.unwrap(), version(1).bytes);

    fleet.census.send_replace(Some(Census::default()));
    let done = collect(&mut replica.api, false).await;
    assert_eq!(done.retired.iter().map(|it| it.revision).collect::<Vec<_>>(), [1], "it has what it wanted");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_under_way_is_spared() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&forgetful()).await;
    let api = &mut replica.api;
    let content = version(1);
    let begun = api.begin_upload(content.begin()).await.unwrap().into_inner();
    let half = &begun.missing[..begun.missing.len() / 2];
    api.upload_chunks(stream::iter(content.messages(&begun.manifest, half))).await.unwrap();
    // Chunks that nobody notes any more: of an upload whose time is over.
    let orphan = Piece::Chunk(domain::Digest::of(b"orphan"));
    let subject = wire::piece::subject(&orphan);
    fleet.nats.publish(&subject, runtime::nats::Headers::new(), "orphan".into()).await.unwrap();
    until(async || fleet.pieces().await.contains(&orphan)).await;
    let done = collect(api, false).await;
    assert_eq!((done.chunks, done.manifests), (1, 0));
    assert!(!fleet.pieces().await.contains(&orphan));
    let rest = &begun.missing[half.len()..];
    api.upload_chunks(stream::iter(content.messages(&begun.manifest, rest))).await.unwrap();
    api.finish_upload(content.finish(&begun.manifest)).await.unwrap();
    assert_eq!(fetch(api, CHANNEL, 1).await.unwrap(), content.bytes);
    replica.stop().await;
}

fn sweep(id: u64, seconds: u64, done: bool) -> Entry {
    Entry::Sweep(Sweep { id, until: Timestamp(clock::now().0 + seconds * 1000), done })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_until_a_sweep_that_may_not_know_it_is_over() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&quiet()).await;
    let content = version(1);
    // All its chunks lie there, but only until the sweep gets to them.
    let begun = replica.api.begin_upload(content.begin()).await.unwrap().into_inner();
    let messages = content.messages(&begun.manifest, &begun.missing);
    replica.api.upload_chunks(stream::iter(messages)).await.unwrap();
    fleet.write(&[sweep(7, 600, false), Entry::Uploads(Default::default())]).await;

    let (mut api, begin) = (replica.api.clone(), content.begin());
    let call = tokio::spawn(async move { api.begin_upload(begin).await.map(tonic::Response::into_inner) });
    let log = runtime::store::Log::new(fleet.nats.clone());
    until(async || {
        let last = log.history(&wire::subject::StoreKey::Uploads).await.unwrap().pop().unwrap();
        matches!(wire::catalog::read(&last.key, &last.body).unwrap(), Entry::Uploads(it) if it.iter().len() == 1)
    })
    .await;
    let refused = replica.api.collect_garbage(v1::CollectGarbageRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "SWEEP"));
    assert!(!call.is_finished(), "it is noted, and waits");
    fleet.nats.purge("CONTENT", "content.>", u64::MAX).await.unwrap();
    fleet.write(&[sweep(7, 600, true)]).await;
    let begun = soon(call).await.unwrap().unwrap();
    assert_eq!(begun.missing.len(), content.chunks.len(), "what the sweep deleted is missing");
    assert!(push(&mut replica.api, &content).await.unwrap().created);
    assert_eq!(fetch(&mut replica.api, CHANNEL, 1).await.unwrap(), content.bytes);

    // One that died is over by the clock.
    fleet.write(&[sweep(8, 0, false)]).await;
    let other = Content::new(CHANNEL, noise(9, 100_000));
    assert!(soon(push(&mut replica.api, &other)).await.unwrap().created);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_it_is_not_known_what_is_needed() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&forgetful()).await;
    let pushed = push(&mut replica.api, &version(1)).await.unwrap().revision;
    let name = domain::Digest(pushed.manifest.as_slice().try_into().unwrap());
    let subject = wire::piece::subject(&Piece::Manifest(name));
    fleet.nats.purge("CONTENT", subject.as_str(), u64::MAX).await.unwrap();
    replica.stop().await;
    let mut replica = fleet.replica(&forgetful()).await;
    let before = fleet.pieces().await;
    let refused = replica.api.collect_garbage(v1::CollectGarbageRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "MANIFEST_LOST");
    assert!(refused.message().contains("push"), "{}", refused.message());
    assert_eq!(fleet.pieces().await, before);
    // The way out: the same content again brings it back, as the revision that it was.
    let again = push(&mut replica.api, &version(1)).await.unwrap();
    assert_eq!((again.revision.revision, again.sent, again.created), (1, 0, false));
    assert_eq!(collect(&mut replica.api, false).await.chunks, 0);
    assert_eq!(fetch(&mut replica.api, CHANNEL, 1).await.unwrap(), version(1).bytes);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_collections_at_once_lose_nothing() {
    let fleet = Fleet::start().await;
    let [a, b] = [fleet.replica(&forgetful()).await, fleet.replica(&forgetful()).await];
    let uploads = |mut api: Client, channel: &'static str, seed: u64| async move {
        for number in 0..6 {
            // The same contents come and go: chunks of one are the garbage of the one before.
            let content = Content::new(channel, noise(seed + number % 3, 400_000));
            let pushed = loop {
                match push(&mut api, &content).await {
                    Ok(pushed) => break pushed,
                    Err(status) if status.code() == Code::Unavailable || status.code() == Code::Aborted => {}
                    Err(status) => panic!("{status}"),
                }
            };
            if !pushed.created {
                // It was there still, and may go now: it is not the newest.
                continue;
            }
            let got = fetch(&mut api, channel, pushed.revision.revision).await.unwrap();
            assert_eq!(got, content.bytes, "revision {} of {channel}", pushed.revision.revision);
        }
    };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let collections = |mut api: Client| {
        let stopped = stopped.clone();
        tokio::spawn(async move {
            let mut chunks = 0;
            while !*stopped.borrow() {
                let request = v1::CollectGarbageRequest::default();
                match api.collect_garbage(request).await {
                    Ok(done) => chunks += done.into_inner().chunks,
                    Err(status) => {
                        assert!(matches!(status.code(), Code::Unavailable | Code::Aborted), "{status}")
                    }
                }
            }
            chunks
        })
    };
    let collections = [collections(a.api.clone()), collections(b.api.clone())];
    tokio::join!(uploads(a.api.clone(), "one", 10), uploads(b.api.clone(), "two", 10));
    stop.send(true).unwrap();
    let mut chunks = 0;
    for collection in collections {
        chunks += soon(collection).await.unwrap();
    }
    assert!(chunks > 0, "something was collected meanwhile");
    a.stop().await;
    b.stop().await;
}
