//! The catalogue: all objects of a fleet, as a fold of the store's log.

mod channels;
mod content;
mod keeper;
mod objects;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

pub use content::{
    Channel, ContentUser, MAX_CHANNELS, MAX_NOTE_BYTES, MAX_PREVIOUS, MAX_REVISION_LABEL_BYTES, MAX_STAGES,
    MAX_STORED_REVISIONS, MAX_UPLOADS, Note, RevisionLabel, RevisionTextError, Stage, StoredRevision, Sweep,
    TooManyUploads, Upload, Uploads,
};
pub use keeper::{Keeper, KeeperError, MAX_KEEPER_BYTES};
pub use objects::{
    Group, GroupRef, GroupRefError, Kind, LabelError, Labels, Locks, MAX_LABEL_KEY_BYTES,
    MAX_LABEL_VALUE_BYTES, MAX_LABELS, MAX_LOCKS, Policy, ROOT, Token, TooManyLocks, root_id,
};

use crate::access::ApiToken;
use crate::content::{ChannelName, ContentRevision};
use crate::id::{ApiTokenName, GroupId, KindName, PolicyName, TokenId};
use crate::path::GroupPath;
use crate::revision::{Epoch, Revision};
use channels::Channels;

/// Names one object of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// The generation of the store.
    Epoch,
    /// A kind.
    Kind(KindName),
    /// A policy.
    Policy(PolicyName),
    /// A group.
    Group(GroupId),
    /// An enrolment token.
    Token(TokenId),
    /// An API token.
    ApiToken(ApiTokenName),
    /// A content channel.
    Channel(ChannelName),
    /// One revision of a content channel.
    Content(ChannelName, ContentRevision),
    /// The uploads under way.
    Uploads,
    /// The last garbage collection of content.
    Sweep,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch => f.write_str("epoch"),
            Self::Kind(name) => write!(f, "kind {name:?}", name = name.as_str()),
            Self::Policy(name) => write!(f, "policy {name:?}", name = name.as_str()),
            Self::Group(id) => write!(f, "group {id:?}", id = id.as_str()),
            Self::Token(id) => write!(f, "token {id:?}", id = id.as_str()),
            Self::ApiToken(name) => write!(f, "API token {name:?}", name = name.as_str()),
            Self::Channel(name) => write!(f, "channel {name:?}", name = name.as_str()),
            Self::Content(name, number) => {
                write!(f, "revision {number} of channel {name:?}", name = name.as_str())
            }
            Self::Uploads => f.write_str("the list of uploads"),
            Self::Sweep => f.write_str("the garbage collection of content"),
        }
    }
}

/// One state of one object: what a change writes and what the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A new state of a group.
    Group(Arc<Group>),
    /// A new state of a kind.
    Kind(Arc<Kind>),
    /// A new state of a policy.
    Policy(Arc<Policy>),
    /// A new state of a token.
    Token(Arc<Token>),
    /// A new state of an API token.
    ApiToken(Arc<ApiToken>),
    /// A new generation of the store.
    Epoch(Epoch),
    /// A new state of a channel.
    Channel(Arc<Channel>),
    /// A new revision of a channel, or a new state of one.
    Content(Arc<StoredRevision>),
    /// The uploads that are under way now.
    Uploads(Arc<Uploads>),
    /// A garbage collection starts or ends.
    Sweep(Sweep),
    /// The object was deleted.
    Deleted {
        /// Which.
        key: ObjectKey,
        /// For a policy: counts this deletion as one of its generations. For a channel: the highest number
        /// that a revision of it had. Else 0.
        generation: u64,
    },
}

impl Entry {
    /// Which object this is a state of.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Group(group) => ObjectKey::Group(group.id.clone()),
            Self::Kind(kind) => ObjectKey::Kind(kind.name.clone()),
            Self::Policy(policy) => ObjectKey::Policy(policy.name.clone()),
            Self::Token(token) => ObjectKey::Token(token.id.clone()),
            Self::ApiToken(token) => ObjectKey::ApiToken(token.name.clone()),
            Self::Epoch(_) => ObjectKey::Epoch,
            Self::Channel(channel) => ObjectKey::Channel(channel.name.clone()),
            Self::Content(content) => ObjectKey::Content(content.channel.clone(), content.number),
            Self::Uploads(_) => ObjectKey::Uploads,
            Self::Sweep(_) => ObjectKey::Sweep,
            Self::Deleted { key, .. } => key.clone(),
        }
    }
}

/// An object and the revision of the change that last wrote it.
#[derive(Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The object.
    pub value: Arc<T>,
    /// Revision of the change that wrote it; 0 for the root that nobody changed yet.
    pub revision: Revision,
}

impl<T: Default> Default for Versioned<T> {
    fn default() -> Self {
        Self { value: Arc::default(), revision: Revision(0) }
    }
}

impl<T> Clone for Versioned<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), revision: self.revision }
    }
}

/// All objects of a fleet at one store revision.
///
/// Cloning copies pointers, not objects: a plan works on its own candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    revision: Revision,
    epoch: Epoch,
    groups: BTreeMap<GroupId, Versioned<Group>>,
    paths: BTreeMap<Box<str>, GroupId>,
    kinds: BTreeMap<KindName, Versioned<Kind>>,
    policies: BTreeMap<PolicyName, Versioned<Policy>>,
    tokens: BTreeMap<TokenId, Versioned<Token>>,
    api_tokens: BTreeMap<ApiTokenName, Versioned<ApiToken>>,
    /// Last generation of each deleted policy, so that a new one of that name counts on. Bounded by the
    /// names that the log keeps.
    retired: BTreeMap<PolicyName, u64>,
    content: Channels,
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new()
    }
}

impl Catalog {
    /// The catalogue of an empty log: the root group and nothing else, epoch 1.
    #[must_use]
    pub fn new() -> Self {
        let root = Group::root();
        let paths = BTreeMap::from([(root.path.as_str().into(), root.id.clone())]);
        let first = Versioned { value: Arc::new(root), revision: Revision(0) };
        Self {
            revision: Revision(0),
            epoch: Epoch(1),
            groups: BTreeMap::from([(root_id(), first)]),
            paths,
            kinds: BTreeMap::new(),
            policies: BTreeMap::new(),
            tokens: BTreeMap::new(),
            api_tokens: BTreeMap::new(),
            retired: BTreeMap::new(),
            content: Channels::default(),
        }
    }

    /// Folds one complete change. The caller folds changes in the order of the log and never half of one.
    pub fn fold(&mut self, entries: impl IntoIterator<Item = Entry>, revision: Revision) {
        for entry in entries {
            self.fold_entry(entry, revision);
        }
        self.revision = self.revision.max(revision);
    }

    fn fold_entry(&mut self, entry: Entry, revision: Revision) {
        match entry {
            Entry::Group(value) => {
                self.forget_path(&value.id);
                let before = self.groups.get(&value.id).map(|group| &*group.value);
                self.content.follow(before, Some(&value));
                self.paths.insert(value.path.as_str().into(), value.id.clone());
                self.groups.insert(value.id.clone(), Versioned { value, revision });
            }
            Entry::Kind(value) => {
                self.kinds.insert(value.name.clone(), Versioned { value, revision });
            }
            Entry::Policy(value) => {
                self.retired.remove(&value.name);
                self.policies.insert(value.name.clone(), Versioned { value, revision });
            }
            Entry::Token(value) => {
                self.tokens.insert(value.id.clone(), Versioned { value, revision });
            }
            Entry::ApiToken(value) => {
                self.api_tokens.insert(value.name.clone(), Versioned { value, revision });
            }
            Entry::Epoch(epoch) => self.epoch = self.epoch.max(epoch),
            Entry::Channel(value) => self.content.put_channel(value, revision),
            Entry::Content(value) => self.content.put_revision(value, revision),
            Entry::Uploads(value) => self.content.put_uploads(value, revision),
            Entry::Sweep(value) => self.content.put_sweep(value, revision),
            Entry::Deleted { key, generation } => self.delete(key, generation, revision),
        }
    }

    fn delete(&mut self, key: ObjectKey, generation: u64, revision: Revision) {
        match key {
            ObjectKey::Epoch => {}
            ObjectKey::Kind(name) => {
                self.kinds.remove(&name);
            }
            ObjectKey::Policy(name) => {
                self.policies.remove(&name);
                self.retired.insert(name, generation);
            }
            ObjectKey::Group(id) => {
                self.forget_path(&id);
                let gone = self.groups.remove(&id);
                self.content.follow(gone.as_ref().map(|group| &*group.value), None);
            }
            ObjectKey::Token(id) => {
                self.tokens.remove(&id);
            }
            ObjectKey::ApiToken(name) => {
                self.api_tokens.remove(&name);
            }
            ObjectKey::Channel(name) => {
                // A number that fits is written; a larger one can only make the next number larger.
                let last = u32::try_from(generation).unwrap_or(u32::MAX);
                self.content.delete_channel(name, ContentRevision(last));
            }
            ObjectKey::Content(name, number) => self.content.delete_revision(&name, number),
            ObjectKey::Uploads => self.content.delete_uploads(revision),
            ObjectKey::Sweep => self.content.delete_sweep(),
        }
    }

    /// Two groups of one change may swap places, so a path is forgotten only while it is this group's.
    fn forget_path(&mut self, id: &GroupId) {
        let Some(group) = self.groups.get(id) else { return };
        let path = group.value.path.as_str();
        if self.paths.get(path) == Some(id) {
            self.paths.remove(path);
        }
    }

    /// Revision of the last change folded.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Generation of the store.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A group by id.
    #[must_use]
    pub fn group(&self, id: &GroupId) -> Option<&Versioned<Group>> {
        self.groups.get(id)
    }

    /// A group by its place.
    #[must_use]
    pub fn group_at(&self, path: &GroupPath) -> Option<&Versioned<Group>> {
        self.paths.get(path.as_str()).and_then(|id| self.groups.get(id))
    }

    /// A group as people name it.
    #[must_use]
    pub fn named(&self, name: &GroupRef) -> Option<&Versioned<Group>> {
        match name {
            GroupRef::Path(path) => self.group_at(path),
            GroupRef::Id(id) => self.group(id),
        }
    }

    /// All groups in order of id.
    pub fn groups(&self) -> impl Iterator<Item = &Versioned<Group>> {
        self.groups.values()
    }

    /// How many groups there are.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The group at `path` and all below it; a group comes before those below it.
    #[must_use]
    pub fn subtree(&self, path: &GroupPath) -> Vec<&Versioned<Group>> {
        let below = if path.is_root() { "/".to_owned() } else { format!("{path}/") };
        let mut groups: Vec<&Versioned<Group>> = self.group_at(path).into_iter().collect();
        let after = self.paths.range::<str, _>((Bound::Excluded(below.as_str()), Bound::Unbounded));
        let within = after.take_while(|(path, _)| path.starts_with(&below));
        groups.extend(within.filter_map(|(_, id)| self.groups.get(id)));
        groups
    }

    /// The groups from the root down to `path`, as far as they exist.
    #[must_use]
    pub fn line(&self, path: &GroupPath) -> Vec<&Versioned<Group>> {
        let mut line: Vec<&Versioned<Group>> = std::iter::successors(Some(path.clone()), GroupPath::parent)
            .filter_map(|path| self.group_at(&path))
            .collect();
        line.reverse();
        line
    }

    /// A kind by name.
    #[must_use]
    pub fn kind(&self, name: &KindName) -> Option<&Versioned<Kind>> {
        self.kinds.get(name)
    }

    /// All kinds in order of name.
    pub fn kinds(&self) -> impl Iterator<Item = &Versioned<Kind>> {
        self.kinds.values()
    }

    /// A policy by name.
    #[must_use]
    pub fn policy(&self, name: &PolicyName) -> Option<&Versioned<Policy>> {
        self.policies.get(name)
    }

    /// All policies in order of name.
    pub fn policies(&self) -> impl Iterator<Item = &Versioned<Policy>> {
        self.policies.values()
    }

    /// A token by id.
    #[must_use]
    pub fn token(&self, id: &TokenId) -> Option<&Versioned<Token>> {
        self.tokens.get(id)
    }

    /// All tokens in order of id.
    pub fn tokens(&self) -> impl Iterator<Item = &Versioned<Token>> {
        self.tokens.values()
    }

    /// An API token by name.
    #[must_use]
    pub fn api_token(&self, name: &ApiTokenName) -> Option<&Versioned<ApiToken>> {
        self.api_tokens.get(name)
    }

    /// All API tokens in order of name.
    pub fn api_tokens(&self) -> impl Iterator<Item = &Versioned<ApiToken>> {
        self.api_tokens.values()
    }

    /// The generation that the next version of this policy gets.
    #[must_use]
    pub fn next_generation(&self, name: &PolicyName) -> u64 {
        let last = self.policies.get(name).map(|policy| policy.value.generation);
        last.or_else(|| self.retired.get(name).copied()).unwrap_or(0) + 1
    }

    /// Revision of the change that last wrote an object; `None` if there is no such object.
    #[must_use]
    pub fn revision_of(&self, key: &ObjectKey) -> Option<Revision> {
        match key {
            ObjectKey::Epoch => None,
            ObjectKey::Kind(name) => self.kinds.get(name).map(|object| object.revision),
            ObjectKey::Policy(name) => self.policies.get(name).map(|object| object.revision),
            ObjectKey::Group(id) => self.groups.get(id).map(|object| object.revision),
            ObjectKey::Token(id) => self.tokens.get(id).map(|object| object.revision),
            ObjectKey::ApiToken(name) => self.api_tokens.get(name).map(|object| object.revision),
            ObjectKey::Channel(_) | ObjectKey::Content(..) | ObjectKey::Uploads | ObjectKey::Sweep => {
                self.content.revision_of(key)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, path: &str) -> Entry {
        Entry::Group(Arc::new(Group::new(GroupId::new(id).unwrap(), GroupPath::new(path).unwrap())))
    }

    fn ids(groups: Vec<&Versioned<Group>>) -> Vec<String> {
        groups.into_iter().map(|group| group.value.id.to_string()).collect()
    }

    #[test]
    fn a_subtree_holds_the_group_and_those_below_it_only() {
        let mut catalog = Catalog::new();
        let entries =
            [("a", "/a"), ("ab", "/a-b"), ("a1", "/a/b"), ("a2", "/a/b-c"), ("a3", "/a/b/c"), ("z", "/z")];
        catalog.fold(entries.map(|(id, path)| entry(id, path)), Revision(6));
        let under = |path: &str| ids(catalog.subtree(&GroupPath::new(path).unwrap()));
        assert_eq!(under("/a"), ["a", "a1", "a2", "a3"]);
        assert_eq!(under("/a/b"), ["a1", "a3"]);
        assert_eq!(under("/").len(), 7);
        assert_eq!(under("/")[0], "root");
        assert_eq!(ids(catalog.line(&GroupPath::new("/a/b/c").unwrap())), ["root", "a", "a1", "a3"]);
    }

    #[test]
    fn groups_can_swap_places_in_one_change() {
        let mut catalog = Catalog::new();
        catalog.fold([entry("a", "/a"), entry("b", "/b")], Revision(2));
        catalog.fold([entry("a", "/b"), entry("b", "/a")], Revision(4));
        for (path, id) in [("/a", "b"), ("/b", "a")] {
            assert_eq!(catalog.group_at(&GroupPath::new(path).unwrap()).unwrap().value.id.as_str(), id);
        }
        let gone = ObjectKey::Group(GroupId::new("a").unwrap());
        catalog.fold([Entry::Deleted { key: gone, generation: 0 }], Revision(5));
        assert!(catalog.group_at(&GroupPath::new("/b").unwrap()).is_none());
        assert_eq!(catalog.revision(), Revision(5));
    }
}
