//! Who may do what through the API: roles, the table of methods, how far a caller reaches, API tokens,
//! tokens of OpenID providers, and lock-outs of those who present bad credentials.

mod lockout;
mod methods;
pub mod oidc;
mod reach;
mod token;

use std::fmt;
use std::str::FromStr;

use crate::time::Timestamp;

pub use lockout::{Lockout, MAX_PEERS, Peer};
pub use methods::{Breadth, Effect, METHODS, Method, method};
pub use reach::{OutOfReach, Reach, Sight};
pub use token::{
    ApiToken, DEFAULT_TTL, MAX_API_TOKENS, MAX_TTL, MIN_TTL, NewApiToken, Refused, TtlError, admit, create,
    revoke, seen, ttl,
};

/// What a caller is allowed to do. A caller has one role, in the whole fleet or in a part of its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks at everything, changes nothing.
    Viewer,
    /// Makes enrolment tokens and sees who joined: for the scripts that install machines.
    Enroller,
    /// Changes groups, policies and content, moves agents, and does what an enroller does.
    Operator,
    /// Does everything, and says who else may.
    Admin,
}

/// What a method needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// To be known.
    Known,
    /// To look.
    Read,
    /// To let agents join.
    Enrol,
    /// To change what agents should have.
    Change,
    /// To say who may do what.
    Administer,
}

/// A text that names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be viewer, enroller, operator or admin")]
pub struct RoleError;

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Enroller, Self::Operator, Self::Admin];

    /// Whether the role has a right.
    #[must_use]
    pub fn has(self, right: Right) -> bool {
        match right {
            Right::Known => true,
            Right::Read => matches!(self, Self::Viewer | Self::Operator | Self::Admin),
            Right::Enrol => matches!(self, Self::Enroller | Self::Operator | Self::Admin),
            Right::Change => matches!(self, Self::Operator | Self::Admin),
            Right::Administer => matches!(self, Self::Admin),
        }
    }

    /// The role as people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Enroller => "enroller",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(RoleError)
    }
}

/// Who calls, once that is proved. `name` is what histories show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Where.
    pub reach: Reach,
    /// Until when, if that is known.
    pub until: Option<Timestamp>,
}

/// Why a caller may not use a method.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The role lacks the right.
    #[error("{name} has the role {role}, which may not do this: it takes {}", roles(*right))]
    Role {
        /// Who.
        name: String,
        /// As what.
        role: Role,
        /// What it takes.
        right: Right,
    },
    /// The method is about the whole fleet, and the caller is bound to a part of it.
    #[error("{name} is bound to a group, and this concerns the whole fleet")]
    Bound {
        /// Who.
        name: String,
    },
}

fn roles(right: Right) -> String {
    let able: Vec<&str> = Role::ALL.into_iter().filter(|role| role.has(right)).map(Role::as_str).collect();
    able.join(" or ")
}

impl Caller {
    /// Whether the caller may use a method at all. What it may be used on is up to [`Reach`].
    ///
    /// # Errors
    /// [`Forbidden`].
    pub fn may(&self, method: &Method) -> Result<(), Forbidden> {
        if !self.role.has(method.right) {
            return Err(Forbidden::Role { name: self.name.clone(), role: self.role, right: method.right });
        }
        match (method.breadth, &self.reach) {
            (Breadth::Fleet, Reach::Under(_)) => Err(Forbidden::Bound { name: self.name.clone() }),
            (Breadth::Fleet | Breadth::Part, Reach::Everywhere) | (Breadth::Part, Reach::Under(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GroupId;

    #[test]
    fn roles_hold_each_other_and_have_names() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
            assert!(role.has(Right::Known));
        }
        assert_eq!("root".parse::<Role>(), Err(RoleError));
        let rights = [Right::Read, Right::Enrol, Right::Change, Right::Administer];
        let of = |role: Role| rights.map(|right| role.has(right));
        assert_eq!(of(Role::Viewer), [true, false, false, false]);
        assert_eq!(of(Role::Enroller), [false, true, false, false]);
        assert_eq!(of(Role::Operator), [true, true, true, false]);
        assert_eq!(of(Role::Admin), [true; 4]);
    }

    #[test]
    fn a_refusal_names_the_roles_that_may() {
        let caller = |role, reach| Caller { name: "ana".into(), role, reach, until: None };
        let apply = method("muster.api.v1.PolicyService/Apply").unwrap();
        let refused = caller(Role::Viewer, Reach::Everywhere).may(apply).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "ana has the role viewer, which may not do this: it takes operator or admin"
        );
        let bound = caller(Role::Operator, Reach::Under(GroupId::new("web").unwrap()));
        assert_eq!(bound.may(apply), Ok(()));
        let collect = method("muster.api.v1.ContentService/CollectGarbage").unwrap();
        assert_eq!(bound.may(collect), Err(Forbidden::Bound { name: "ana".into() }));
        assert_eq!(caller(Role::Operator, Reach::Everywhere).may(collect), Ok(()));
    }
}
