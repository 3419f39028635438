//! Uploads: whole, cut off, twice, wrong, from two replicas.

use crate::fleet::{Content, Fleet, fetch, noise, push, quiet};

#[tokio::test(flavor = "multi_thread")]
async fn a_content_becomes_a_revision_and_comes_back() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica(&quiet()).await;
    let content = Content::new("definitions/ips", noise(1, 3_000_000));
    let pushed = push(&mut replica.api, &content).await.unwrap();
    assert!(pushed.created);
    assert_eq!((pushed.revision.revision, pushed.revision.bytes), (1, 3_000_000));
    assert_eq!(pushed.sent, content.chunks.len());
    assert_eq!(fetch(&mut replica.api, "definitions/ips", 0).await.unwrap(), content.bytes);
    replica.stop().await;
}
