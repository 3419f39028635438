//! Log lines of the content machine's notes. INFO: the state changed. WARN: a person may have to look.

use domain::AgentId;
use domain::content::ContentItem;
use domain::content::agent::Note;
use domain::content::plan::Road;

pub(crate) fn log(agent: &AgentId, note: &Note) {
    match note {
        Note::Fetching { item, plan } => {
            let ContentItem { channel, number, .. } = item;
            let (bytes, held) = (plan.fetch_bytes, plan.held_bytes);
            let road = match plan.road {
                Road::Chunks => "chunks",
                Road::Patch { .. } => "patch",
                Road::Full => "full",
            };
            tracing::info!(%agent, %channel, %number, road, bytes, held, "fetching content");
        }
        Note::Fetched { item, bytes } => {
            let ContentItem { channel, number, .. } = item;
            tracing::info!(%agent, %channel, %number, ?bytes, "content is on the disk and verified");
        }
        Note::Applied(item) => {
            tracing::info!(%agent, channel = %item.channel, number = %item.number, "content in force and healthy");
        }
        Note::NotTried(item, reason) => {
            let ContentItem { channel, number, .. } = item;
            tracing::warn!(%agent, %channel, %number, %reason, "content is not tried: it failed before and has not changed");
        }
        Note::Failed(item, reason) => {
            let ContentItem { channel, number, .. } = item;
            tracing::warn!(%agent, %channel, %number, %reason, "content failed: the last known good stays");
        }
        Note::Reverted(channel, Some(item)) => {
            tracing::info!(%agent, %channel, number = %item.number, "the last known good content is in force");
        }
        Note::Reverted(channel, None) => {
            tracing::warn!(%agent, %channel, "no content is in force: there is no last known good");
        }
        Note::Removed(channel) => {
            tracing::info!(%agent, %channel, "content is gone: nothing assigns it any more")
        }
        Note::Damaged(channel) => {
            tracing::warn!(%agent, %channel, "content had been changed and is built again")
        }
        Note::Repaired(channel) => tracing::info!(%agent, %channel, "content is whole again"),
        Note::Delayed { channel, step, reason } => {
            let channel = channel.as_ref().map(ToString::to_string);
            tracing::warn!(%agent, channel, step, %reason, "content: failed, to be tried again");
        }
    }
}
