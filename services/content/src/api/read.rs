//! Channels and revisions as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use domain::access::Reach;
use domain::catalog::StoredRevision;
use domain::content::{ChannelName, ContentIndex, Delta, Manifest, ManifestFile};
use domain::{Digest, Revision};
use std::sync::Arc;
use tonic::Status;
use wire::api::v1;

use super::{convert, show};
use crate::replica::Replica;
use crate::{Refused, deltas, refuse};

/// Channels of a page when the caller does not say.
const DEFAULT_PAGE: usize = 100;
/// Most channels of a page; a caller who asks for more gets this.
const MAX_PAGE: usize = 1000;
/// Files that an answer lists at most. All of a manifest fit.
const MAX_FILES: usize = domain::content::manifest::MAX_FILES;

/// The page token is the name of the last channel on the page before: pages stay right when channels come and go.
pub(super) async fn list(
    replica: &Replica,
    reach: &Reach,
    request: &v1::ListChannelsRequest,
) -> Result<v1::ListChannelsResponse, Status> {
    let size = match usize::try_from(request.page_size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => return Err(refuse::field("page_size", "must not be negative")),
    };
    let after = match request.page_token.as_str() {
        "" => None,
        text => Some(convert::channel("page_token", text)?),
    };
    replica.catalogue.catch_up().await.map_err(Refused::from)?;
    let stored_bytes = replica.store.used().await.map_err(Refused::from)?;
    let catalog = replica.catalogue.current();
    let sight = reach.sight(&catalog);
    let agents = show::followers(&catalog, reach, &replica.agents.counts());
    let after = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let rest = catalog.channels().filter(|channel| match after {
        Bound::Excluded(after) => channel.value.name > *after,
        Bound::Included(_) | Bound::Unbounded => true,
    });
    let mut channels: Vec<v1::Channel> = rest
        .filter(|channel| sight.channel(&channel.value.name))
        .take(size + 1)
        .map(|channel| show::channel(&sight, &catalog, (&channel.value, &agents), show::Detail::Named))
        .collect();
    let more = channels.len() > size;
    channels.truncate(size);
    let last = channels.last().filter(|_| more).map(|channel| channel.name.clone());
    let quota_bytes = replica.config.content_quota;
    Ok(v1::ListChannelsResponse {
        channels,
        next_page_token: last.unwrap_or_default(),
        stored_bytes,
        quota_bytes,
    })
}

pub(super) async fn channel(
    replica: &Replica,
    reach: &Reach,
    request: &v1::GetChannelRequest,
) -> Result<v1::Channel, Status> {
    let name = convert::channel("channel", &request.channel)?;
    let reached = match request.min_revision {
        0 => replica.catalogue.catch_up().await,
        revision => replica.catalogue.reach(Revision(revision)).await,
    };
    reached.map_err(Refused::from)?;
    shown(replica, reach, &name)
}

/// A channel with all its revisions, as far as this replica knows it.
pub(super) fn shown(replica: &Replica, reach: &Reach, name: &ChannelName) -> Result<v1::Channel, Status> {
    let catalog = replica.catalogue.current();
    let sight = reach.sight(&catalog);
    let channel = catalog.channel(name).filter(|_| sight.channel(name));
    let channel = channel.ok_or_else(|| refuse::no_channel(name))?;
    let agents = show::followers(&catalog, reach, &replica.agents.counts());
    Ok(show::channel(&sight, &catalog, (&channel.value, &agents), show::Detail::All))
}

/// A revision with its pieces.
struct Pieces {
    manifest: Arc<Manifest>,
    index: Option<ContentIndex>,
    /// Each chunk once, with its length as stored; raw where the index is missing.
    chunks: BTreeMap<Digest, u64>,
}

impl Pieces {
    async fn of(replica: &Replica, revision: &StoredRevision) -> Result<Self, Refused> {
        let name = revision.manifest;
        let Some(manifest) = replica.store.manifest(&name).await? else {
            let message = format!(
                "the manifest of revision {} of channel {} is lost: push its content again",
                revision.number, revision.channel
            );
            return Err(Refused(Status::data_loss(message)));
        };
        let index = replica.store.index(&name, &manifest).await?.index;
        let lengths = index.as_ref().map(ContentIndex::stored_bytes).unwrap_or_default();
        let chunks =
            manifest.chunks().iter().enumerate().map(|(at, chunk)| {
                (chunk.digest, u64::from(lengths.get(at).copied().unwrap_or(chunk.bytes)))
            });
        let chunks = chunks.collect();
        Ok(Self { manifest, index, chunks })
    }

    fn chunk_bytes(&self) -> u64 {
        self.chunks.values().sum()
    }

    fn delta(&self, from: Option<Digest>) -> Option<&Delta> {
        self.index.as_ref().and_then(|index| index.delta(from))
    }
}

pub(super) async fn revision(
    replica: &Replica,
    reach: &Reach,
    request: &v1::GetRevisionRequest,
) -> Result<v1::RevisionDetail, Status> {
    replica.catalogue.catch_up().await.map_err(Refused::from)?;
    let catalog = replica.catalogue.current();
    let sight = reach.sight(&catalog);
    convert::visible(&sight, request.selector.as_ref())?;
    let revision = convert::select(&catalog, "selector", request.selector.as_ref())?;
    // Before what is made is read: what ends in between is then shown as made, and never as neither.
    let patches_pending = deltas::pending(replica, &catalog, revision).await?;
    let pieces = Pieces::of(replica, revision).await?;
    let siblings = catalog.content_revisions(&revision.channel).rev();
    let patches = siblings.filter_map(|sibling| {
        let delta = pieces.delta(Some(sibling.value.manifest))?;
        Some(v1::Patch { from: sibling.value.number.0, bytes: delta.stored_bytes() })
    });
    let patches = patches.collect();
    Ok(v1::RevisionDetail {
        revision: Some(show::revision_to(&sight, &catalog, revision)),
        files: pieces.manifest.files().iter().map(file).collect(),
        chunks: u32::try_from(pieces.manifest.chunks().len()).unwrap_or(u32::MAX),
        chunk_bytes: pieces.chunk_bytes(),
        full_bytes: pieces.delta(None).map_or(0, Delta::stored_bytes),
        patches,
        patches_pending,
    })
}

fn file(file: &ManifestFile) -> v1::ContentFile {
    v1::ContentFile {
        path: file.path.to_string(),
        bytes: file.bytes,
        digest: file.digest.0.to_vec(),
        executable: file.executable,
    }
}

pub(super) async fn diff(
    replica: &Replica,
    reach: &Reach,
    request: &v1::DiffRevisionsRequest,
) -> Result<v1::DiffRevisionsResponse, Status> {
    replica.catalogue.catch_up().await.map_err(Refused::from)?;
    let catalog = replica.catalogue.current();
    let sight = reach.sight(&catalog);
    convert::visible(&sight, request.from.as_ref())?;
    convert::visible(&sight, request.to.as_ref())?;
    let from = convert::select(&catalog, "from", request.from.as_ref())?;
    let to = convert::select(&catalog, "to", request.to.as_ref())?;
    if from.channel != to.channel {
        return Err(refuse::field("to", "must be of the same channel as from"));
    }
    let [before, after] = [Pieces::of(replica, from).await?, Pieces::of(replica, to).await?];
    let missing = after.chunks.iter().filter(|(digest, _)| !before.chunks.contains_key(*digest));
    let same = from.manifest == to.manifest;
    Ok(v1::DiffRevisionsResponse {
        from: Some(show::revision_to(&sight, &catalog, from)),
        to: Some(show::revision_to(&sight, &catalog, to)),
        files: file_changes(before.manifest.files(), after.manifest.files()),
        patch_bytes: if same { Some(0) } else { after.delta(Some(from.manifest)).map(Delta::stored_bytes) },
        chunk_bytes: missing.map(|(_, bytes)| *bytes).sum(),
        full_bytes: after.delta(None).map_or(after.chunk_bytes(), Delta::stored_bytes),
    })
}

/// What differs between two lists of files, in order of path.
fn file_changes(before: &[ManifestFile], after: &[ManifestFile]) -> Vec<v1::FileChange> {
    let by_path = |files: &'_ [ManifestFile]| -> BTreeMap<String, ManifestFile> {
        files.iter().map(|file| (file.path.to_string(), file.clone())).collect()
    };
    let (before, after) = (by_path(before), by_path(after));
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changes = paths.into_iter().filter_map(|path| {
        let (old, new) = (before.get(path), after.get(path));
        let action = match (old, new) {
            (None, _) => v1::FileAction::FileAdded,
            (_, None) => v1::FileAction::FileRemoved,
            (old, new) if old == new => return None,
            _ => v1::FileAction::FileChanged,
        };
        Some(v1::FileChange {
            path: path.clone(),
            action: action.into(),
            bytes_before: old.map_or(0, |file| file.bytes),
            bytes_after: new.map_or(0, |file| file.bytes),
        })
    });
    changes.take(MAX_FILES).collect()
}

#[cfg(test)]
mod tests {
    use domain::content::FilePath;

    use super::*;

    #[test]
    fn files_differ_by_bytes_and_by_mode() {
        let files = |list: &[(&str, &str, bool)]| -> Vec<ManifestFile> {
            let file = |(path, text, executable): &(&str, &str, bool)| ManifestFile {
                path: FilePath::new(path).unwrap(),
                bytes: text.len() as u64,
                digest: Digest::of(text.as_bytes()),
                executable: *executable,
            };
            list.iter().map(file).collect()
        };
        let before = files(&[("a", "one", false), ("b", "two", false), ("c", "three", false)]);
        let after = files(&[("a", "one", true), ("c", "three", false), ("d", "four", false)]);
        let changes = file_changes(&before, &after);
        let shown: Vec<String> = changes
            .iter()
            .map(|it| format!("{} {:?} {} {}", it.path, it.action(), it.bytes_before, it.bytes_after))
            .collect();
        assert_eq!(shown, ["a FileChanged 3 3", "b FileRemoved 3 0", "d FileAdded 0 4"]);
        assert!(file_changes(&before, &before).is_empty());
    }
}
