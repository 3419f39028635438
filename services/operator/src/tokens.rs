//! Enrolment tokens and the Secrets that hold them.
//!
//! The secret of a token is told once, when the token is made. So each Secret has a token of its own, whose id begins with
//! the name of the EnrollmentToken; it says in its annotations which token it holds and for what spec it was made.

use domain::{Span, Timestamp};
use wire::api::v1;

use crate::object::Object;

/// Characters behind the name in the id of a token.
pub(crate) const SUFFIX: usize = 8;
/// A token is made anew when this many sixths of its life are over: whoever reads the Secret then has a third of it left.
const ROTATE_AT_SIXTHS: u64 = 4;

/// What the Secret of an EnrollmentToken holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Whether there is a Secret of that name.
    pub(crate) exists: bool,
    /// Whether it belongs to the EnrollmentToken.
    pub(crate) ours: bool,
    /// Id of the token in it.
    pub(crate) token: String,
    /// Digest of the spec for which it was made.
    pub(crate) spec: String,
    /// Whether there is a join token in it.
    pub(crate) filled: bool,
}

/// What is to be done about an EnrollmentToken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// All is well with this token.
    Keep(v1::Token),
    /// A token is made and the Secret filled with it.
    Make,
    /// The Secret is somebody else's.
    Foreign,
}

/// A plan for one EnrollmentToken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenPlan {
    pub(crate) step: Step,
    /// Tokens that nobody should join with any more; after the step.
    pub(crate) revoke: Vec<String>,
}

/// Name of the Secret of an EnrollmentToken.
pub(crate) fn secret_name(name: &str) -> String {
    format!("{name}-join-token")
}

/// Digest of what is wanted of a token: of its JSON, whose keys stand in order.
pub(crate) fn digest(wanted: &v1::Token) -> String {
    domain::Digest::of(wire::json::to_json(wanted).to_string().as_bytes()).to_string()
}

/// The tokens that were made for an EnrollmentToken.
pub(crate) fn of<'a>(
    name: &'a str,
    tokens: impl Iterator<Item = &'a v1::Token>,
    manager: &'a str,
) -> impl Iterator<Item = &'a v1::Token> {
    tokens.filter(move |token| {
        let suffix = token.name.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        token.manager == manager && suffix.is_some_and(|rest| rest.len() == SUFFIX && !rest.contains('-'))
    })
}

/// Plans one EnrollmentToken.
pub(crate) fn plan<'a>(
    object: &Object,
    wanted: &v1::Token,
    tokens: impl Iterator<Item = &'a v1::Token>,
    held: &Held,
    now: Timestamp,
) -> TokenPlan {
    if held.exists && !held.ours {
        return TokenPlan { step: Step::Foreign, revoke: Vec::new() };
    }
    let tokens: Vec<&v1::Token> = tokens.collect();
    let same_spec = held.spec == digest(wanted);
    let current = tokens.iter().copied().find(|token| token.name == held.token);
    let fresh = current.filter(|token| held.filled && same_spec && is_fresh(token, now));
    let step = fresh.map_or(Step::Make, |token| Step::Keep(token.clone()));
    let stale = |token: &&&v1::Token| {
        let held = token.name == held.token;
        let newer = current.is_some_and(|current| made(token) > made(current));
        // One that no Secret holds was made by somebody who stopped before it was written. One from before may be on its
        // way to an agent still and ends by itself, unless the spec has changed.
        if held {
            !same_spec || object.deleted
        } else {
            newer || !same_spec || current.is_none() || object.deleted
        }
    };
    let revoke = tokens.iter().filter(stale).map(|token| token.name.clone()).collect();
    TokenPlan { step, revoke }
}

fn made(token: &v1::Token) -> u64 {
    millis(token.create_time.as_ref())
}

fn millis(time: Option<&prost_types::Timestamp>) -> u64 {
    let Some(time) = time else { return 0 };
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    seconds.saturating_mul(1_000).saturating_add(u64::try_from(time.nanos / 1_000_000).unwrap_or(0))
}

/// When a token ends.
pub(crate) fn ends(token: &v1::Token) -> Timestamp {
    Timestamp(millis(token.expire_time.as_ref()))
}

fn is_fresh(token: &v1::Token, now: Timestamp) -> bool {
    let (made, ends) = (Timestamp(made(token)), ends(token));
    let Span(life) = ends.since(made);
    now < Timestamp(made.0.saturating_add(life / 6 * ROTATE_AT_SIXTHS)).min(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;
    use crate::status::tests::object;

    fn wanted(uses: u32) -> v1::Token {
        v1::Token { name: "web".into(), group: "/web".into(), uses, ..v1::Token::default() }
    }

    fn token(name: &str, made: i64) -> v1::Token {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        v1::Token {
            name: name.into(),
            manager: "kubernetes:fleet".into(),
            create_time: at(made),
            expire_time: at(made + 600),
            ..v1::Token::default()
        }
    }

    fn held(token: &str, uses: u32) -> Held {
        Held { exists: true, ours: true, token: token.into(), spec: digest(&wanted(uses)), filled: true }
    }

    #[track_caller]
    fn check(tokens: &[v1::Token], held: &Held, now: u64, (step, revoke): (&str, &[&str])) {
        let object = object(Kind::EnrollmentToken, "web");
        let mine = of("web", tokens.iter(), "kubernetes:fleet");
        let plan = plan(&object, &wanted(1), mine, held, Timestamp(now * 1_000));
        let said = match plan.step {
            Step::Keep(token) => format!("keep {}", token.name),
            Step::Make => "make".to_owned(),
            Step::Foreign => "foreign".to_owned(),
        };
        assert_eq!((said.as_str(), plan.revoke), (step, revoke.iter().map(|it| (*it).to_owned()).collect()));
    }

    #[test]
    fn a_secret_always_holds_a_token_that_is_good_for_a_while() {
        let (one, two) = (token("web-aaaaaaaa", 1_000), token("web-bbbbbbbb", 1_300));
        check(&[], &Held::default(), 1_000, ("make", &[]));
        check(std::slice::from_ref(&one), &held("web-aaaaaaaa", 1), 1_399, ("keep web-aaaaaaaa", &[]));
        check(std::slice::from_ref(&one), &held("web-aaaaaaaa", 1), 1_400, ("make", &[]));
        // The one from before is good until its end.
        check(&[one.clone(), two.clone()], &held("web-bbbbbbbb", 1), 1_500, ("keep web-bbbbbbbb", &[]));
        // One that no Secret holds.
        check(&[one.clone(), two], &held("web-aaaaaaaa", 1), 1_350, ("keep web-aaaaaaaa", &["web-bbbbbbbb"]));
        check(std::slice::from_ref(&one), &Held::default(), 1_100, ("make", &["web-aaaaaaaa"]));
        // The spec has changed.
        check(std::slice::from_ref(&one), &held("web-aaaaaaaa", 2), 1_100, ("make", &["web-aaaaaaaa"]));
        // Somebody emptied the Secret, or revoked the token.
        let empty = Held { filled: false, ..held("web-aaaaaaaa", 1) };
        check(std::slice::from_ref(&one), &empty, 1_100, ("make", &[]));
        check(&[], &held("web-aaaaaaaa", 1), 1_100, ("make", &[]));
        // Others are none of ours.
        let foreign = Held { ours: false, ..held("web-aaaaaaaa", 1) };
        check(std::slice::from_ref(&one), &foreign, 1_100, ("foreign", &[]));
        let others = [token("web-1-aaaaaaaa", 1), token("webaaaaaaaaa", 1), token("web-aaaaaaa", 1)];
        check(&others, &Held::default(), 1_100, ("make", &[]));
    }
}
