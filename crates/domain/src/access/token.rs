//! API tokens: on which terms one is made, and when it lets a caller in.

use std::sync::Arc;

use super::{Caller, Reach, Role};
use crate::catalog::{Catalog, Entry, ObjectKey};
use crate::digest::{Digest, same};
use crate::id::{ApiTokenName, GroupId};
use crate::time::{Span, Timestamp};

/// Life of a token whose maker says nothing: long enough for a pipeline, short enough to be thought of again.
pub const DEFAULT_TTL: Span = Span::from_secs(90 * 24 * 3600);
/// Shortest life of a token, for a script that ends soon.
pub const MIN_TTL: Span = Span::from_secs(1);
/// Longest life of a token: no credential outlives the memory of who made it.
pub const MAX_TTL: Span = Span::from_secs(366 * 24 * 3600);
/// Most API tokens of a fleet: people and pipelines, not agents.
pub const MAX_API_TOKENS: usize = 10_000;

/// An API token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Its name: who calls with it, in histories.
    pub name: ApiTokenName,
    /// What its bearer may do.
    pub role: Role,
    /// The group that it is bound to; `None` for the whole fleet.
    pub group: Option<GroupId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// SHA-256 of the secret.
    pub secret_digest: Digest,
    /// Who made it.
    pub created_by: String,
}

impl ApiToken {
    /// Where its bearer may do what its role allows.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.group.clone().map_or(Reach::Everywhere, Reach::Under)
    }

    /// Its bearer.
    #[must_use]
    pub fn caller(&self) -> Caller {
        let (name, until) = (format!("token:{}", self.name), Some(self.expires_at));
        Caller { name, role: self.role, reach: self.reach(), until }
    }
}

/// Outside [`MIN_TTL`]..=[`MAX_TTL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be between 1s and 366d")]
pub struct TtlError;

/// Checks how long a token is to be good for; what is `None` gets its default.
///
/// # Errors
/// [`TtlError`].
pub fn ttl(wanted: Option<Span>) -> Result<Span, TtlError> {
    let ttl = wanted.unwrap_or(DEFAULT_TTL);
    if (MIN_TTL..=MAX_TTL).contains(&ttl) { Ok(ttl) } else { Err(TtlError) }
}

/// Why a token cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NewApiToken {
    /// There is one of that name.
    #[error("there is an API token {name:?} already: revoke it first, or take another name", name = .0.as_str())]
    Exists(ApiTokenName),
    /// There is no such group, as far as its maker sees.
    #[error("there is no group {id:?}", id = .0.as_str())]
    GroupMissing(GroupId),
    /// A bound caller wants a token that reaches further than itself.
    #[error("you are bound to a group: bind the token to that group or one below it")]
    Further,
    /// The fleet has [`MAX_API_TOKENS`].
    #[error("the fleet has {MAX_API_TOKENS} API tokens, which is the most: revoke some that are not needed")]
    TooMany,
}

/// Decides whether `maker` may create a token, and gives the entry to write.
///
/// # Errors
/// [`NewApiToken`].
pub fn create(catalog: &Catalog, maker: &Reach, token: ApiToken) -> Result<Entry, NewApiToken> {
    match &token.group {
        None if *maker == Reach::Everywhere => {}
        None => return Err(NewApiToken::Further),
        Some(group) if catalog.group(group).is_some() && maker.holds_group(catalog, group) => {}
        Some(group) => return Err(NewApiToken::GroupMissing(group.clone())),
    }
    if catalog.api_token(&token.name).is_some() {
        return Err(NewApiToken::Exists(token.name));
    }
    if catalog.api_tokens().count() >= MAX_API_TOKENS {
        return Err(NewApiToken::TooMany);
    }
    Ok(Entry::ApiToken(Arc::new(token)))
}

/// The entry that revokes a token; `None` if there is none that its revoker sees.
#[must_use]
pub fn revoke(catalog: &Catalog, revoker: &Reach, name: &ApiTokenName) -> Option<Entry> {
    let token = catalog.api_token(name).filter(|token| seen(catalog, revoker, &token.value))?;
    Some(Entry::Deleted { key: ObjectKey::ApiToken(token.value.name.clone()), generation: 0 })
}

/// Whether a caller sees a token: one that reaches no further than itself.
#[must_use]
pub fn seen(catalog: &Catalog, caller: &Reach, token: &ApiToken) -> bool {
    match &token.group {
        None => *caller == Reach::Everywhere,
        Some(group) => caller.holds_group(catalog, group),
    }
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such token, it was revoked, or the secret is another one: one answer for the three.
    #[error("the API token is not known, or it was revoked")]
    Unknown,
    /// Its time is over.
    #[error("the API token has expired: ask for a new one")]
    Expired,
}

/// Decides whether a token lets its bearer in. `token` is `None` if there is none of that name, `presented` the
/// SHA-256 of the secret that came. A token is good until, not at, its `expires_at`.
///
/// # Errors
/// [`Refused`]; the secret is looked at first, in a time that does not depend on where it differs.
pub fn admit(token: Option<&ApiToken>, presented: &Digest, now: Timestamp) -> Result<Caller, Refused> {
    let known = token.map_or(Digest::default(), |token| token.secret_digest);
    let matches = same(&known, presented);
    let token = token.filter(|_| matches).ok_or(Refused::Unknown)?;
    if now >= token.expires_at { Err(Refused::Expired) } else { Ok(token.caller()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Group;
    use crate::path::GroupPath;
    use crate::revision::Revision;

    fn group(id: &str) -> GroupId {
        GroupId::new(id).unwrap()
    }

    fn token(name: &str, bound: Option<&str>) -> ApiToken {
        ApiToken {
            name: ApiTokenName::new(name).unwrap(),
            role: Role::Operator,
            group: bound.map(group),
            created_at: Timestamp(0),
            expires_at: Timestamp(1_000),
            secret_digest: Digest::of(b"secret"),
            created_by: "token:admin".into(),
        }
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::new();
        let groups = [("servers", "/servers"), ("web", "/servers/web"), ("db", "/db")];
        let entry = |(id, path)| Entry::Group(Arc::new(Group::new(group(id), GroupPath::new(path).unwrap())));
        catalog.fold(groups.map(entry), Revision(3));
        catalog
    }

    #[test]
    fn a_token_lets_in_who_knows_its_secret_in_time() {
        let known = token("ci", Some("web"));
        let check = |token: Option<&ApiToken>, secret: &[u8], now, expected: Result<&str, Refused>| {
            let got = admit(token, &Digest::of(secret), Timestamp(now)).map(|caller| caller.name);
            assert_eq!(got, expected.map(str::to_owned));
        };
        check(Some(&known), b"secret", 999, Ok("token:ci"));
        check(Some(&known), b"secret", 1_000, Err(Refused::Expired));
        check(Some(&known), b"guess", 1_000, Err(Refused::Unknown));
        check(None, b"secret", 0, Err(Refused::Unknown));
        // No token has no secret.
        assert_eq!(admit(None, &Digest::default(), Timestamp(0)), Err(Refused::Unknown));
        assert_eq!(known.caller().reach, Reach::Under(group("web")));
    }

    #[test]
    fn nobody_makes_or_sees_a_token_that_reaches_further() {
        let mut catalog = catalog();
        let bound = Reach::Under(group("servers"));
        let everywhere = Reach::Everywhere;
        let refused = |maker: &Reach, token: ApiToken| create(&catalog, maker, token).unwrap_err();
        assert_eq!(refused(&bound, token("a", None)), NewApiToken::Further);
        assert_eq!(refused(&bound, token("a", Some("db"))), NewApiToken::GroupMissing(group("db")));
        assert_eq!(refused(&everywhere, token("a", Some("x"))), NewApiToken::GroupMissing(group("x")));
        let made = [
            create(&catalog, &bound, token("a", Some("web"))).unwrap(),
            create(&catalog, &everywhere, token("b", None)).unwrap(),
            create(&catalog, &everywhere, token("c", Some("db"))).unwrap(),
        ];
        catalog.fold(made, Revision(6));
        assert!(matches!(create(&catalog, &bound, token("a", Some("web"))), Err(NewApiToken::Exists(_))));
        let seen = |who: &Reach| -> Vec<String> {
            let all = catalog.api_tokens().filter(|token| super::seen(&catalog, who, &token.value));
            all.map(|token| token.value.name.to_string()).collect()
        };
        assert_eq!(seen(&bound), ["a"]);
        assert_eq!(seen(&everywhere), ["a", "b", "c"]);
        let name = |text| ApiTokenName::new(text).unwrap();
        assert!(revoke(&catalog, &bound, &name("b")).is_none());
        assert!(revoke(&catalog, &bound, &name("a")).is_some());
        catalog.fold(revoke(&catalog, &everywhere, &name("b")), Revision(7));
        assert!(catalog.api_token(&name("b")).is_none());
    }

    #[test]
    fn terms_have_bounds() {
        assert_eq!(ttl(None), Ok(DEFAULT_TTL));
        assert_eq!(ttl(Some(MAX_TTL)), Ok(MAX_TTL));
        assert_eq!(ttl(Some(Span(MAX_TTL.0 + 1))), Err(TtlError));
        assert_eq!(ttl(Some(Span(0))), Err(TtlError));
    }
}
