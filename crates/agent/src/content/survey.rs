//! What is held of one content, what is left to fetch, and whether there is room for it. Everything here blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::Arc;

use domain::Digest;
use domain::content::agent::Space;
use domain::content::plan::{Held, Plan, Road};
use domain::content::{ContentIndex, ContentItem, Delta, Manifest};

use super::dirs::{FILES, PARTS};
use super::files::Files;
use super::library::Library;
use super::tree::Tree;
use crate::crash;
use crate::disk::files as disk;

/// Bytes that a content may take on the disk beside its files: directories, and what a file system rounds up.
const SLACK_BYTES: u64 = 64 * 1024;
const NO_SPACE: Space = Space { needed: 0, free: 0, quota: None, used: 0 };

/// Where a chunk that is held lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the draft, where it belongs.
    Draft,
    /// In another content or draft: its number in [`Surveyed::others`], and that of the chunk in it.
    Other(usize, usize),
    /// In the cache.
    Cache,
}

/// What is held of one content, and how to get the rest.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub(crate) item: ContentItem,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) index: Option<Arc<ContentIndex>>,
    pub(crate) plan: Arc<Plan>,
    /// Contents and drafts with chunks of this one, or that a delta starts from.
    pub(crate) others: Vec<(Digest, Arc<Files>)>,
    /// Where each chunk that is held lies.
    pub(crate) places: BTreeMap<Digest, Place>,
    /// The content is whole already.
    pub(crate) whole: bool,
    pub(crate) space: Space,
}

impl Surveyed {
    /// The delta of the plan.
    pub(crate) fn delta(&self) -> Option<&Delta> {
        let from = match self.plan.road {
            Road::Chunks => return None,
            Road::Patch { from } => Some(from),
            Road::Full => None,
        };
        self.index.as_ref()?.delta(from)
    }
}

impl Library {
    /// Looks at all that is held and may shorten the way to a content, plans the rest, and looks at the disk.
    pub(crate) fn survey(
        &self,
        item: &ContentItem,
        manifest: Manifest,
        index: Option<ContentIndex>,
    ) -> io::Result<Surveyed> {
        let manifest = Arc::new(manifest);
        let index = index.map(Arc::new);
        let mut places = BTreeMap::new();
        let mut held = Held::default();
        let mut others = Vec::new();
        let wanted: BTreeSet<Digest> = manifest.chunks().iter().map(|chunk| chunk.digest).collect();
        let starts: BTreeSet<Digest> =
            index.iter().flat_map(|index| index.deltas()).filter_map(Delta::from).collect();
        for found in self.dirs().found()? {
            let Some(files) = self.files(&found) else { continue };
            let own_draft = found.draft && found.manifest == item.manifest;
            let is_start = !found.draft && starts.contains(&found.manifest);
            let shares = files.manifest().chunks().iter().any(|chunk| wanted.contains(&chunk.digest));
            if !shares && !is_start {
                continue;
            }
            let checked = self.check(&files)?;
            if is_start && checked.is_whole() {
                held.contents.insert(found.manifest);
            }
            for (number, chunk) in files.manifest().chunks().iter().enumerate() {
                if checked.holds(number) && wanted.contains(&chunk.digest) {
                    let place = if own_draft { Place::Draft } else { Place::Other(others.len(), number) };
                    let known = places.entry(chunk.digest).or_insert(place);
                    if own_draft {
                        *known = Place::Draft;
                    }
                }
            }
            others.push((found.manifest, files));
        }
        self.survey_cache(&wanted, &mut places)?;
        held.chunks = places.keys().copied().collect();
        held.parts = self.survey_parts(item, index.as_deref())?;
        held.unusable = self.unusable(item, index.as_deref());
        let plan = Arc::new(domain::content::plan::plan(&manifest, index.as_deref(), &held));
        if held.unusable.contains(&plan.road) {
            self.trust_again(item);
        }
        let whole = self.is_whole(item, &manifest)?;
        let mut surveyed =
            Surveyed { item: item.clone(), manifest, index, plan, others, places, whole, space: NO_SPACE };
        surveyed.space = self.space(&surveyed)?;
        crash::point("content-surveyed");
        Ok(surveyed)
    }

    fn survey_cache(
        &self,
        wanted: &BTreeSet<Digest>,
        places: &mut BTreeMap<Digest, Place>,
    ) -> io::Result<()> {
        for digest in wanted {
            if !places.contains_key(digest) && self.inner().pieces.get(digest)?.is_some() {
                places.insert(*digest, Place::Cache);
            }
        }
        Ok(())
    }

    /// Parts of deltas that are on disk; those that do not hold are removed.
    fn survey_parts(
        &self,
        item: &ContentItem,
        index: Option<&ContentIndex>,
    ) -> io::Result<BTreeMap<Option<Digest>, BTreeSet<u32>>> {
        let mut held: BTreeMap<Option<Digest>, BTreeSet<u32>> = BTreeMap::new();
        let dir = self.dirs().draft(&item.channel, &item.manifest).join(PARTS);
        let entries = match fs::read_dir(&dir) {
            Err(error) if super::tree::is_absent(&error) => return Ok(held),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let named = entry.file_name().to_str().and_then(read_part_name);
            let part = named.and_then(|(from, number)| {
                let delta = index?.delta(from)?;
                Some((from, number, delta.parts().get(usize::try_from(number).ok()?)?))
            });
            if let Some((from, number, part)) = part {
                let limit = usize::try_from(part.bytes).unwrap_or(usize::MAX);
                let bytes = disk::read(&entry.path(), limit).ok().flatten();
                if bytes.is_some_and(|bytes| Digest::of(&bytes) == part.digest) {
                    held.entry(from).or_default().insert(number);
                    continue;
                }
            }
            // Without an index nothing is known about it yet.
            if index.is_some() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(held)
    }

    /// Whether the content itself is there as a whole.
    fn is_whole(&self, item: &ContentItem, manifest: &Arc<Manifest>) -> io::Result<bool> {
        let path = self.dirs().content(&item.channel, &item.manifest);
        let tree = match Tree::open(&path.join(FILES)) {
            Err(error) if super::tree::is_absent(&error) => return Ok(false),
            other => other?,
        };
        let files = Files::new(tree, Arc::clone(manifest));
        Ok(self.check(&files)?.is_whole())
    }

    fn space(&self, surveyed: &Surveyed) -> io::Result<Space> {
        let draft = self.dirs().draft(&surveyed.item.channel, &surveyed.item.manifest);
        let begun = if draft.exists() { super::dirs::used(&draft)? } else { 0 };
        let parts = surveyed.delta().map_or(0, Delta::stored_bytes);
        let all = surveyed.manifest.content_bytes() + surveyed.item.manifest_bytes + parts + SLACK_BYTES;
        let needed = if surveyed.whole { 0 } else { all.saturating_sub(begun) };
        let look = |used: u64, free: u64| Space { needed, free, quota: self.quota, used };
        let (used, free) = (self.dirs().used()?, self.dirs().free()?);
        let over_quota = self.quota.map_or(0, |quota| (used + needed).saturating_sub(quota));
        let missing = needed.saturating_sub(free).max(over_quota);
        if missing == 0 {
            return Ok(look(used, free));
        }
        // Chunks that this content does not use make room for it.
        let keep = surveyed.places.iter().filter(|(_, place)| **place == Place::Cache);
        let keep = keep.map(|(digest, _)| *digest).collect();
        let mut inner = self.inner();
        let left = inner.pieces.used().saturating_sub(missing);
        inner.pieces.shrink(left, &keep)?;
        Ok(look(self.dirs().used()?, self.dirs().free()?))
    }

    /// A chunk that is held, held against its digest once more.
    pub(crate) fn held(&self, surveyed: &Surveyed, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        match surveyed.places.get(digest) {
            None | Some(Place::Draft) => Ok(None),
            Some(Place::Cache) => self.inner().pieces.get(digest),
            Some(Place::Other(other, number)) => {
                let Some((_, files)) = surveyed.others.get(*other) else { return Ok(None) };
                let mut buffer = Vec::new();
                Ok(files.chunk(*number, &mut buffer)?.then_some(buffer))
            }
        }
    }
}

/// The name of the file with a part of a delta.
pub(crate) fn part_name(from: Option<Digest>, number: u32) -> String {
    match from {
        Some(from) => format!("{from}.{number}"),
        None => format!("none.{number}"),
    }
}

fn read_part_name(name: &str) -> Option<(Option<Digest>, u32)> {
    let (from, number) = name.split_once('.')?;
    let from = if from == "none" { None } else { Some(super::dirs::digest(from)?) };
    Some((from, number.parse().ok()?))
}
