//! One call at the gate.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use domain::access::oidc::Denied;
use domain::access::{Caller, Effect, Lockout, Method, Peer, Refused, Role, method};
use domain::audit::Asker;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};
use tracing::Instrument as _;
use wire::api_token::BearerToken;
use wire::trace::{TRACEPARENT, TraceParent};

use super::oidc::{Oidc, Unproved};
use super::tokens::{LookUpError, Tokens};
use super::{Door, Gate, anybody, audited, refuse};
use crate::clock;
use crate::telemetry::{Name, metrics, spans};

/// What a credential comes after in its header.
const BEARER: &str = "bearer ";

/// Lets a call through with its [`Caller`], or answers it.
pub(super) async fn admit(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let (asked, clock) = (Asked::of(&request), metrics::clock());
    let answer = match gate.look(&asked).await {
        Ok((caller, row)) => {
            // Who passed the gate may say which trace a call belongs to.
            let span = spans::rpc(row.name, parent(request.headers()));
            let called = call(&gate, (caller, row), asked.by(None), (request, next));
            let answer = called.instrument(span.clone()).await;
            spans::rpc_ended(&span, code(&answer));
            answer
        }
        Err(turned) => gate.turn_away(&asked, turned).await.into_http::<Body>(),
    };
    let method = asked.method.map_or("_OTHER", |row| row.name);
    metrics::since(Name::RpcServer, clock, &["grpc", method, code(&answer)]);
    answer
}

/// A call that is let through.
async fn call(
    gate: &Gate,
    (caller, row): (Caller, &'static Method),
    asker: Asker,
    (mut request, next): (Request, Next),
) -> Response {
    // Nothing behind the gate needs the credential, so nothing can log it.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.extensions_mut().insert(caller.clone());
    let answer = match row.effect {
        Effect::Reads => Ok(next.run(request).await),
        Effect::Writes | Effect::Uploads => {
            let asker = Asker { name: caller.name, role: Some(caller.role), ..asker };
            audited::run(&gate.0.audit, asker, row, (request, next)).await
        }
    };
    answer.unwrap_or_else(|status| status.into_http::<Body>())
}

/// The trace that a caller says its call belongs to.
fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    headers.get(TRACEPARENT)?.to_str().ok()?.parse().ok()
}

/// Name of the status in the first headers: services answer with one message or with a status there.
fn code(response: &Response) -> &'static str {
    let status = Status::from_header_map(response.headers());
    spans::code(status.map_or(Code::Ok, |status| status.code()))
}

/// A call that is not let through.
struct Turned {
    status: Status,
    /// Who, and as what, as far as that is known.
    who: Option<(String, Option<Role>)>,
    /// Whether it is worth an entry in the audit: somebody tried what they may not.
    enter: bool,
}

impl Turned {
    fn quietly(status: Status) -> Self {
        Self { status, who: None, enter: false }
    }

    fn entered(status: Status) -> Self {
        Self { status, who: None, enter: true }
    }
}

/// What the gate looks at.
struct Asked {
    address: IpAddr,
    credential: Option<String>,
    method: Option<&'static Method>,
}

impl Asked {
    fn by(&self, who: Option<(String, Option<Role>)>) -> Asker {
        let (name, role) = who.unwrap_or_default();
        Asker { name, role, address: self.address.to_string() }
    }

    fn of(request: &Request) -> Self {
        Self {
            address: address(request.extensions()),
            credential: credential(request.headers()).map(str::to_owned),
            method: method(request.uri().path().trim_start_matches('/')),
        }
    }
}

impl Gate {
    /// Who calls, if they may use the method.
    async fn look(&self, asked: &Asked) -> Result<(Caller, &'static Method), Turned> {
        let caller = match &self.0.door {
            Door::Open => anybody(),
            Door::Closed { tokens, oidc, lockout } => {
                let peer = peer(asked.address);
                listen(lockout, peer).map_err(Turned::quietly)?;
                let known = authenticate(tokens, oidc.as_deref(), asked.credential.as_deref()).await;
                if matches!(known, Err(Unknown::Nothing)) {
                    return Err(Turned::quietly(refuse::no_credential(oidc.as_deref().map(Oidc::challenge))));
                }
                judge(lockout, peer, known)?
            }
        };
        // A method without a row lets nobody in.
        let row =
            asked.method.ok_or_else(|| Turned::quietly(Status::unimplemented("there is no such method")))?;
        match caller.may(row) {
            Ok(()) => Ok((caller, row)),
            Err(forbidden) => {
                tracing::info!(caller = caller.name, method = row.name, "refused: not allowed");
                let enter = row.effect != Effect::Reads;
                let who = Some((caller.name, Some(caller.role)));
                Err(Turned { status: refuse::forbidden(&forbidden), who, enter })
            }
        }
    }

    /// Enters a refusal in the audit, if it is worth it, and gives the answer.
    async fn turn_away(&self, asked: &Asked, turned: Turned) -> Status {
        let Turned { status, who, enter } = turned;
        if enter {
            let (code, message) = (audited::number(status.code()), status.message().to_owned());
            let method = asked.method.map_or("", |row| row.name);
            let entered = self.0.audit.refused(asked.by(who), method, code, message).await;
            if let Err(error) = entered {
                tracing::error!(error = crate::log::chain(&error), "a refusal is not in the audit");
            }
        }
        status
    }
}

/// Where the call comes from.
fn address(extensions: &Extensions) -> IpAddr {
    let over_tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
    let info = over_tls.or_else(|| extensions.get()).and_then(TcpConnectInfo::remote_addr);
    // Without an address all share one, which is the stricter side.
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}

/// What counts of an address: an IPv4 address in IPv6 is the same host.
fn peer(address: IpAddr) -> Peer {
    match address.to_canonical() {
        IpAddr::V4(address) => Peer::v4(address.into()),
        IpAddr::V6(address) => Peer::v6(address.into()),
    }
}

fn listen(lockout: &Mutex<Lockout>, peer: Peer) -> Result<(), Status> {
    let lockout = lockout.lock().unwrap_or_else(PoisonError::into_inner);
    lockout.check(peer, clock::now()).map_err(refuse::locked_out)
}

/// Why a caller is not known.
enum Unknown {
    /// No credential came.
    Nothing,
    /// A wrong one came.
    Wrong(Refused),
    /// It cannot be told now.
    LookUp(LookUpError),
    /// A token of an OpenID provider came that lets nobody in.
    Unproved(Unproved),
}

async fn authenticate(
    tokens: &Tokens,
    oidc: Option<&Oidc>,
    credential: Option<&str>,
) -> Result<Caller, Unknown> {
    let credential = credential.ok_or(Unknown::Nothing)?;
    if let Some(oidc) = oidc
        && oidc::Token::looks_like(credential)
    {
        return oidc.caller(credential).await.map_err(Unknown::Unproved);
    }
    let bearer = BearerToken::decode(credential).map_err(|_| Unknown::Wrong(Refused::Unknown))?;
    let token = tokens.find(&bearer.name).await.map_err(Unknown::LookUp)?;
    domain::access::admit(token.as_deref(), &bearer.digest(), clock::now()).map_err(Unknown::Wrong)
}

/// What stands after "Bearer" in the one header for it.
fn credential(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (first, None) = (all.next()?, all.next()) else { return None };
    let text = first.to_str().ok()?;
    let (scheme, rest) = text.split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then_some(rest.trim())
}

/// Remembers a wrong credential, and forgets those before a right one.
fn judge(lockout: &Mutex<Lockout>, peer: Peer, known: Result<Caller, Unknown>) -> Result<Caller, Turned> {
    let mut lockout = lockout.lock().unwrap_or_else(PoisonError::into_inner);
    let mut count = || {
        if let Some(wait) = lockout.failed(peer, clock::now()) {
            tracing::warn!(?peer, wait_ms = wait.0, "too many bad credentials: not listening for a while");
        }
    };
    match known {
        Ok(caller) => {
            lockout.succeeded(peer);
            Ok(caller)
        }
        Err(Unknown::Nothing) => Err(Turned::quietly(refuse::no_credential(None))),
        Err(Unknown::LookUp(error)) => Err(Turned::quietly(refuse::cannot_tell(&error))),
        // Whoever knows the secret is no guesser.
        Err(Unknown::Wrong(refused @ Refused::Expired)) => {
            Err(Turned::entered(refuse::unauthenticated(refused)))
        }
        Err(Unknown::Wrong(refused @ Refused::Unknown)) => {
            count();
            Err(Turned::entered(refuse::unauthenticated(refused)))
        }
        Err(Unknown::Unproved(Unproved::Token(error))) => {
            count();
            Err(Turned::entered(refuse::bad_token(&error)))
        }
        Err(Unknown::Unproved(Unproved::Foreign(denied))) => {
            count();
            Err(Turned::entered(refuse::denied(&denied)))
        }
        // Who has a token that its issuer signed is no guesser either.
        Err(Unknown::Unproved(Unproved::Denied(denied))) => {
            let who = match &denied {
                Denied::NoRole(name) => Some((name.clone(), None)),
                _ => None,
            };
            Err(Turned { status: refuse::denied(&denied), who, enter: true })
        }
        Err(Unknown::Unproved(Unproved::NoPlace(admitted))) => {
            let status = refuse::no_place(&admitted);
            Err(Turned { status, who: Some((admitted.name, Some(admitted.role))), enter: true })
        }
        Err(Unknown::Unproved(Unproved::Keys(error))) => Err(Turned::quietly(refuse::no_keys(&error))),
        Err(Unknown::Unproved(Unproved::Loading)) => Err(Turned::quietly(refuse::loading())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_either_form_is_one_peer() {
        let at = |text: &str| peer(text.parse().unwrap());
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
    }

    #[test]
    fn a_credential_stands_once_after_its_scheme() {
        let check = |values: &[&'static str], expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(credential(&headers), expected, "{values:?}");
        };
        check(&["Bearer mat1_x"], Some("mat1_x"));
        check(&["bearer  mat1_x "], Some("mat1_x"));
        check(&["Basic mat1_x"], None);
        check(&["Bearer"], None);
        check(&["Bearer a", "Bearer b"], None);
        check(&[], None);
    }
}
