//! OpenID Connect: which claims of a verified token make which caller, and how long the keys of an issuer count.

use std::str::FromStr;

use serde_json::Value;

use super::{Role, RoleError};
use crate::path::{GroupPath, PathError};
use crate::time::{Span, Timestamp};

/// How far the clocks of an issuer and of this machine may be apart.
pub const CLOCK_SKEW: Span = Span::from_secs(60);
/// Longest name of a caller, in bytes: it stands in histories and in the audit.
pub const MAX_NAME_BYTES: usize = 128;
/// How often keys are fetched anew: a key that its issuer withdrew counts no longer than this.
pub const REFRESH_EVERY: Span = Span::from_secs(5 * 60);
/// Shortest time between two fetches, whatever tokens come: who makes up names of keys causes no more than this.
pub const REFRESH_AT_MOST: Span = Span::from_secs(10);
/// How long keys count while their issuer cannot be asked. Tokens end before that as a rule.
pub const KEEP_KEYS: Span = Span::from_secs(24 * 3600);

/// Who gets which role: members of a group of the issuer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleRule {
    /// The group, as the claim has it.
    pub group: String,
    /// What its members may do.
    pub role: Role,
    /// The place in the tree that they are bound to; `None` for the whole fleet.
    pub under: Option<GroupPath>,
}

/// A text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleRuleError {
    /// It has not the form of one.
    #[error("must be GROUP=ROLE or GROUP=ROLE@/path/of/a/group")]
    Form,
    /// It names no role.
    #[error("the role {0}")]
    Role(#[from] RoleError),
    /// It names no place.
    #[error("the path after @ {0}")]
    Path(#[from] PathError),
}

impl FromStr for RoleRule {
    type Err = RoleRuleError;

    fn from_str(text: &str) -> Result<Self, RoleRuleError> {
        // Neither a role nor a path has an equals sign; names of groups in a directory have many.
        let (group, rest) = text.rsplit_once('=').ok_or(RoleRuleError::Form)?;
        if group.is_empty() {
            return Err(RoleRuleError::Form);
        }
        let (role, under) = match rest.split_once('@') {
            Some((role, path)) => (role, Some(GroupPath::new(path)?)),
            None => (rest, None),
        };
        Ok(Self { group: group.to_owned(), role: role.parse()?, under: under.filter(|path| !path.is_root()) })
    }
}

/// What is asked of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Who must have issued it.
    pub issuer: String,
    /// Whom it must be for.
    pub audience: String,
    /// Claim with the caller's name.
    pub name_claim: String,
    /// Claim with the caller's groups.
    pub groups_claim: String,
    /// Who gets which role. The first rule counts whose group the caller is in.
    pub roles: Vec<RoleRule>,
}

/// A caller, as far as a token tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Who, as histories show it.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The place that they are bound to; `None` for the whole fleet.
    pub under: Option<GroupPath>,
    /// Until when.
    pub until: Timestamp,
}

/// Why a token lets nobody in, though its issuer signed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is from somebody else.
    #[error("the token is from another issuer than {0}")]
    Issuer(String),
    /// It is for somebody else.
    #[error("the token is not for the audience {0:?}")]
    Audience(String),
    /// Its time is over.
    #[error("the token has expired: log in again")]
    Expired,
    /// Its time has not come.
    #[error("the token is not good yet: do the clocks of this server and its issuer differ?")]
    NotYet,
    /// A claim that is needed is missing, or is something else.
    #[error("the token has no usable claim {claim:?}: it must be {wanted}")]
    Claim {
        /// Which.
        claim: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// Whoever it is has no role.
    #[error("{0} is in no group that has a role here: ask an administrator")]
    NoRole(String),
}

impl Rules {
    /// Decides who a token is. `claims` are those of a token whose signature was verified.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn admit(&self, claims: &Value, now: Timestamp) -> Result<Admitted, Denied> {
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(Denied::Issuer(self.issuer.clone()));
        }
        if !texts(claims.get("aud")).any(|audience| audience == self.audience) {
            return Err(Denied::Audience(self.audience.clone()));
        }
        let missing = |claim: &str, wanted| Denied::Claim { claim: claim.to_owned(), wanted };
        let number = "a number of seconds since 1970";
        let until = time(claims.get("exp")).ok_or_else(|| missing("exp", number))?;
        if now >= until + CLOCK_SKEW {
            return Err(Denied::Expired);
        }
        for claim in ["nbf", "iat"] {
            let Some(value) = claims.get(claim) else { continue };
            let from = time(Some(value)).ok_or_else(|| missing(claim, number))?;
            if now + CLOCK_SKEW < from {
                return Err(Denied::NotYet);
            }
        }
        let name = claims.get(&self.name_claim).and_then(Value::as_str).filter(|name| is_name(name));
        let name = name.ok_or_else(|| missing(&self.name_claim, "a text of 1 to 128 bytes in one line"))?;
        let name = format!("oidc:{name}");
        let rule = self.roles.iter().find(|rule| {
            let mut groups = texts(claims.get(&self.groups_claim));
            groups.any(|group| group == rule.group)
        });
        let rule = rule.ok_or_else(|| Denied::NoRole(name.clone()))?;
        Ok(Admitted { name, role: rule.role, under: rule.under.clone(), until })
    }
}

/// A text, or the texts of a list; nothing else is one.
fn texts(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = claim.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    claim.and_then(Value::as_str).into_iter().chain(list.iter().filter_map(Value::as_str))
}

/// Seconds since 1970; some issuers write them with a fraction, which is left out.
fn time(claim: Option<&Value>) -> Option<Timestamp> {
    let number = claim?.as_number()?;
    let whole = || number.to_string().split('.').next().and_then(|whole| whole.parse().ok());
    let seconds: u64 = number.as_u64().or_else(whole)?;
    Some(Timestamp(seconds.checked_mul(1_000)?))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.contains(char::is_control)
}

/// When keys of an issuer are fetched, and how long they count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyAge {
    tried: Option<Timestamp>,
    fetched: Option<Timestamp>,
}

impl KeyAge {
    /// A fetch begins.
    pub fn tries(&mut self, now: Timestamp) {
        self.tried = Some(now);
    }

    /// A fetch went well.
    pub fn fetches(&mut self, now: Timestamp) {
        self.fetched = Some(now);
    }

    /// When keys are to be fetched, though nobody asks.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        match (self.tried, self.fetched) {
            (None, _) => Timestamp(0),
            (Some(tried), Some(fetched)) if fetched >= tried => fetched + REFRESH_EVERY,
            (Some(tried), _) => tried + REFRESH_AT_MOST,
        }
    }

    /// Whether keys may be fetched because a token names one that is not known.
    ///
    /// # Errors
    /// How long not.
    pub fn may_fetch(&self, now: Timestamp) -> Result<(), Span> {
        let from = self.tried.map_or(Timestamp(0), |tried| tried + REFRESH_AT_MOST);
        // A clock that was set back does not stop it for longer.
        let from = from.min(now + REFRESH_AT_MOST);
        if now >= from { Ok(()) } else { Err(from.since(now)) }
    }

    /// Whether the keys that were fetched last still count.
    #[must_use]
    pub fn counts(&self, now: Timestamp) -> bool {
        self.fetched.is_some_and(|fetched| now.since(fetched) < KEEP_KEYS)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules() -> Rules {
        let roles = ["ops=operator", "cn=web,ou=x=viewer@/servers/web", "root=admin@/"];
        Rules {
            issuer: "https://login".into(),
            audience: "muster".into(),
            name_claim: "sub".into(),
            groups_claim: "groups".into(),
            roles: roles.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn claims() -> Value {
        json!({"iss": "https://login", "aud": "muster", "sub": "ana", "exp": 1_000, "groups": ["x", "ops"]})
    }

    /// What becomes of claims when some of them are others.
    #[track_caller]
    fn check(changed: &[(&str, Value)], now: u64, expected: Result<&str, Denied>) {
        let mut claims = claims();
        for (claim, value) in changed {
            claims[*claim] = value.clone();
        }
        let got = rules().admit(&claims, Timestamp(now * 1_000));
        let told = got.map(|who| {
            let place = who.under.map(|path| format!(" {path}")).unwrap_or_default();
            format!("{} {}{place}", who.name, who.role)
        });
        assert_eq!(told, expected.map(str::to_owned), "{changed:?}");
    }

    #[test]
    fn groups_give_roles_and_the_first_rule_counts() {
        let groups = |value: Value| [("groups", value)];
        check(&[], 0, Ok("oidc:ana operator"));
        check(&groups(json!("ops")), 0, Ok("oidc:ana operator"));
        check(&groups(json!(["root", "ops"])), 0, Ok("oidc:ana operator"));
        check(&groups(json!(["cn=web,ou=x"])), 0, Ok("oidc:ana viewer /servers/web"));
        check(&groups(json!(["root"])), 0, Ok("oidc:ana admin"));
        for none in [json!([]), json!(null), json!(["OPS", "op"]), json!([["ops"]]), json!({"ops": true})] {
            check(&groups(none), 0, Err(Denied::NoRole("oidc:ana".into())));
        }
    }

    #[test]
    fn a_token_is_for_us_from_the_issuer_and_in_time() {
        let issuer = || Err(Denied::Issuer("https://login".into()));
        let audience = || Err(Denied::Audience("muster".into()));
        for other in [json!("https://login/"), json!(["https://login"]), json!(null)] {
            check(&[("iss", other)], 0, issuer());
        }
        check(&[("aud", json!(["other", "muster"]))], 0, Ok("oidc:ana operator"));
        for other in [json!("Muster"), json!(["other"]), json!([]), json!(null), json!({"muster": 1})] {
            check(&[("aud", other)], 0, audience());
        }
        // A minute more than the token says, and not more.
        check(&[], 1_059, Ok("oidc:ana operator"));
        check(&[], 1_060, Err(Denied::Expired));
        check(&[("exp", json!(1_000.7))], 1_059, Ok("oidc:ana operator"));
        let number = |claim: &str| {
            Err(Denied::Claim { claim: claim.into(), wanted: "a number of seconds since 1970" })
        };
        for wrong in [json!("9999"), json!(null), json!(-1), json!(1e300)] {
            check(&[("exp", wrong)], 0, number("exp"));
        }
        for claim in ["nbf", "iat"] {
            check(&[(claim, json!(500))], 440, Ok("oidc:ana operator"));
            check(&[(claim, json!(500))], 439, Err(Denied::NotYet));
            check(&[(claim, json!("500"))], 900, number(claim));
        }
    }

    #[test]
    fn a_name_can_be_shown() {
        for wrong in [json!(""), json!("a\nb"), json!(7), json!(null), json!("a".repeat(MAX_NAME_BYTES + 1))]
        {
            let expected =
                Denied::Claim { claim: "sub".into(), wanted: "a text of 1 to 128 bytes in one line" };
            check(&[("sub", wrong)], 0, Err(expected));
        }
        assert!(rules().admit(&json!([]), Timestamp(0)).is_err());
    }

    #[test]
    fn rules_are_read_from_the_right() {
        let rule = |text: &str| text.parse::<RoleRule>();
        assert_eq!(rule("a=b=viewer").unwrap().group, "a=b");
        assert_eq!(rule("a@b=viewer@/x").unwrap().under, Some(GroupPath::new("/x").unwrap()));
        assert_eq!(rule("a=viewer@/").unwrap().under, None);
        for wrong in ["", "viewer", "=viewer", "a=", "a=root", "a=viewer@", "a=viewer@x", "a=viewer@/X"] {
            assert!(rule(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_fetched_now_and_then_and_kept_for_a_day() {
        let at = |seconds: u64| Timestamp(seconds * 1_000);
        let mut age = KeyAge::default();
        assert!(age.due() == at(0) && age.may_fetch(at(0)).is_ok() && !age.counts(at(0)));
        age.tries(at(100));
        // It is under way, or went wrong.
        assert_eq!((age.due(), age.may_fetch(at(101))), (at(110), Err(Span::from_secs(9))));
        age.fetches(at(102));
        assert_eq!((age.due(), age.may_fetch(at(110))), (at(402), Ok(())));
        age.tries(at(402));
        assert_eq!(age.due(), at(412));
        assert!(age.counts(at(102 + 86_399)) && !age.counts(at(102 + 86_400)));
        // A clock that was set back by an hour.
        age.tries(at(4_000));
        assert_eq!(age.may_fetch(at(400)), Err(REFRESH_AT_MOST));
    }
}
