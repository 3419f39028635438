//! Deletes what was found, in time.

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::find::Doomed;
use crate::replica::Replica;
use crate::{Refused, crash};

/// Deletions at a time: enough to keep the broker busy, which carries them out one by one.
const AT_A_TIME: usize = 16;

/// Deletes as much as there is time for, and nothing that was stored at or after the place `below`.
///
/// # Returns
/// What was deleted. No deletion is under way any more.
///
/// # Errors
/// [`Refused`] if one failed: that one and others may be under way.
pub(super) async fn delete(
    replica: &Replica,
    doomed: Vec<Doomed>,
    (below, deadline): (u64, Instant),
) -> Result<Vec<Doomed>, Refused> {
    let mut doomed = doomed.into_iter();
    let (mut deleted, mut running) = (Vec::new(), FuturesUnordered::new());
    loop {
        let in_time = || Instant::now() < deadline && !replica.shutdown.is_requested();
        while running.len() < AT_A_TIME
            && in_time()
            && let Some(next) = doomed.next()
        {
            running.push(async move {
                replica.store.delete(&next.filter(), below).await?;
                Ok::<_, Refused>(next)
            });
        }
        match running.next().await {
            Some(done) => deleted.push(done?),
            None => return Ok(deleted),
        }
        crash::point("sweep-deleting");
    }
}
