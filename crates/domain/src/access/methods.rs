//! The one table of methods: what each takes. A method that stands here not lets nobody in.

use super::Right;

/// Whether a method changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It only answers.
    Reads,
    /// It may change something.
    Writes,
    /// It may change something, by a stream of requests that is never held as a whole.
    Uploads,
}

/// Who may use a method beside the role: everybody within their reach, or only who reaches the whole fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breadth {
    /// It is about groups and what belongs to them; the service keeps callers within their reach.
    Part,
    /// It is about what the whole fleet shares.
    Fleet,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Full name, as it travels: `package.Service/Method`.
    pub name: &'static str,
    /// What it takes.
    pub right: Right,
    /// What it does.
    pub effect: Effect,
    /// Who may use it beside the role.
    pub breadth: Breadth,
}

const fn row(name: &'static str, right: Right, effect: Effect, breadth: Breadth) -> Method {
    Method { name, right, effect, breadth }
}

use Breadth::{Fleet, Part};
use Effect::{Reads, Uploads, Writes};
use Right::{Administer, Change, Enrol, Known, Read};

/// All methods of the API, in order of name.
pub const METHODS: [Method; 57] = [
    row("muster.api.v1.AccessService/CreateApiToken", Administer, Writes, Part),
    row("muster.api.v1.AccessService/ListApiTokens", Administer, Reads, Part),
    row("muster.api.v1.AccessService/RevokeApiToken", Administer, Writes, Part),
    row("muster.api.v1.AccessService/WhoAmI", Known, Reads, Part),
    row("muster.api.v1.AuditService/ListAuditEntries", Administer, Reads, Fleet),
    row("muster.api.v1.ContentService/BeginUpload", Change, Writes, Fleet),
    row("muster.api.v1.ContentService/CollectGarbage", Change, Writes, Fleet),
    row("muster.api.v1.ContentService/DeleteChannel", Change, Writes, Fleet),
    row("muster.api.v1.ContentService/DiffRevisions", Read, Reads, Part),
    row("muster.api.v1.ContentService/Fetch", Read, Reads, Part),
    row("muster.api.v1.ContentService/FinishUpload", Change, Writes, Fleet),
    row("muster.api.v1.ContentService/GetChannel", Read, Reads, Part),
    row("muster.api.v1.ContentService/GetRevision", Read, Reads, Part),
    row("muster.api.v1.ContentService/ListChannels", Read, Reads, Part),
    row("muster.api.v1.ContentService/Pin", Change, Writes, Fleet),
    row("muster.api.v1.ContentService/Promote", Change, Writes, Fleet),
    row("muster.api.v1.ContentService/Retire", Change, Writes, Fleet),
    row("muster.api.v1.ContentService/Rollback", Change, Writes, Fleet),
    row("muster.api.v1.ContentService/UpdateChannel", Change, Writes, Fleet),
    row("muster.api.v1.ContentService/UploadChunks", Change, Uploads, Fleet),
    row("muster.api.v1.IdentityService/ApproveAgent", Enrol, Writes, Part),
    row("muster.api.v1.IdentityService/CreateToken", Enrol, Writes, Part),
    row("muster.api.v1.IdentityService/DeleteAgent", Change, Writes, Part),
    row("muster.api.v1.IdentityService/EnrolOffline", Enrol, Writes, Part),
    row("muster.api.v1.IdentityService/GetRegistration", Enrol, Reads, Part),
    row("muster.api.v1.IdentityService/ListPendingAgents", Enrol, Reads, Part),
    row("muster.api.v1.IdentityService/ListTokens", Enrol, Reads, Part),
    row("muster.api.v1.IdentityService/MoveAgent", Change, Writes, Part),
    row("muster.api.v1.IdentityService/RejectAgent", Enrol, Writes, Part),
    row("muster.api.v1.IdentityService/RevokeAgent", Change, Writes, Part),
    row("muster.api.v1.IdentityService/RevokeToken", Enrol, Writes, Part),
    row("muster.api.v1.PolicyService/Apply", Change, Writes, Part),
    row("muster.api.v1.PolicyService/CreateGroup", Change, Writes, Part),
    row("muster.api.v1.PolicyService/DeleteGroup", Change, Writes, Part),
    row("muster.api.v1.PolicyService/DeleteKind", Change, Writes, Fleet),
    row("muster.api.v1.PolicyService/DeletePolicy", Change, Writes, Fleet),
    row("muster.api.v1.PolicyService/DiffPolicy", Read, Reads, Part),
    row("muster.api.v1.PolicyService/ExplainGroup", Read, Reads, Part),
    row("muster.api.v1.PolicyService/GetChange", Read, Reads, Fleet),
    row("muster.api.v1.PolicyService/GetGroup", Read, Reads, Part),
    row("muster.api.v1.PolicyService/GetKind", Read, Reads, Part),
    row("muster.api.v1.PolicyService/GetPolicy", Read, Reads, Part),
    row("muster.api.v1.PolicyService/ListGroups", Read, Reads, Part),
    row("muster.api.v1.PolicyService/ListKinds", Read, Reads, Part),
    row("muster.api.v1.PolicyService/ListPolicies", Read, Reads, Part),
    row("muster.api.v1.PolicyService/ListPolicyHistory", Read, Reads, Part),
    row("muster.api.v1.PolicyService/MoveGroup", Change, Writes, Part),
    row("muster.api.v1.PolicyService/RollbackPolicy", Change, Writes, Part),
    row("muster.api.v1.PolicyService/UpdateGroup", Change, Writes, Part),
    row("muster.api.v1.PresenceService/GetAgent", Read, Reads, Part),
    row("muster.api.v1.PresenceService/GetContentStatus", Read, Reads, Part),
    row("muster.api.v1.PresenceService/GetDelivery", Read, Reads, Fleet),
    row("muster.api.v1.PresenceService/GetStatus", Read, Reads, Part),
    row("muster.api.v1.PresenceService/ListAgents", Read, Reads, Part),
    row("muster.api.v1.PresenceService/Watch", Read, Reads, Part),
    row("muster.api.v1.TrustService/GetRoots", Read, Reads, Part),
    row("muster.api.v1.TrustService/PublishRoot", Administer, Writes, Fleet),
];

/// The row of a method.
#[must_use]
pub fn method(name: &str) -> Option<&'static Method> {
    METHODS.binary_search_by_key(&name, |row| row.name).ok().map(|at| &METHODS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_finds_what_it_holds_only() {
        assert!(METHODS.is_sorted_by(|a, b| a.name < b.name));
        for row in &METHODS {
            assert_eq!(method(row.name), Some(row));
            // Who only reads is never asked for a right to change.
            assert!(row.effect != Reads || !matches!(row.right, Change), "{}", row.name);
            assert!(row.effect == Reads || !matches!(row.right, Known | Read), "{}", row.name);
        }
        for name in ["", "muster.api.v1.PolicyService", "muster.api.v1.PolicyService/apply", "a/b"] {
            assert_eq!(method(name), None);
        }
    }
}
