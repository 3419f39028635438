//! Log lines of the content machine's notes. INFO: the state changed. WARN: a person may have to look.

use std::collections::BTreeMap;
use std::time::Instant;

use domain::AgentId;
use domain::content::agent::Note;
use domain::content::plan::Road;
use domain::content::{ChannelName, ContentItem};
use runtime::telemetry::{Name, metrics};

/// When fetches began, for the time that content takes; at most one for each channel.
#[derive(Default)]
pub(crate) struct Began(BTreeMap<ChannelName, Instant>);

impl Began {
    /// Measures what a note tells of.
    pub(crate) fn note(&mut self, note: &Note) {
        let (item, result) = match note {
            Note::Fetching { item, plan: _ } => {
                if metrics::on() {
                    self.0.entry(item.channel.clone()).or_insert_with(Instant::now);
                }
                return;
            }
            Note::Fetched { item: _, bytes } => {
                metrics::add(Name::ContentBytes, bytes.chunk + bytes.full, &["origin"]);
                return metrics::add(Name::ContentBytes, bytes.patch, &["patch"]);
            }
            Note::Reverted(..) => return metrics::add(Name::AgentRollbacks, 1, &["content"]),
            Note::Removed(channel) => {
                self.0.remove(channel);
                return;
            }
            Note::Applied(item) => (item, "applied"),
            Note::Failed(item, _) => (item, "failed"),
            Note::NotTried(..) | Note::Damaged(_) | Note::Repaired(_) | Note::Delayed { .. } => return,
        };
        if let Some(began) = self.0.remove(&item.channel) {
            metrics::since(Name::ContentApply, Some(began), &[result]);
        }
    }
}

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
