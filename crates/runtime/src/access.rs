//! The gate before the API: who calls, what they may use, and who is not listened to.
//!
//! Every method of `muster.api.v1` passes through here, by the table of [`domain::access`]; handlers read who
//! calls with [`caller`] and keep them within their reach.

mod admit;
mod audited;
mod first;
mod oidc;
mod refuse;
mod tokens;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use clap::Args;
use domain::access::{Caller, Lockout, Reach, Role};
use tonic::Status;
use tonic::service::Routes;

use crate::audit::Audit;
use crate::nats::Nats;
use crate::ready::Readiness;
use crate::tasks::Tasks;

pub use self::oidc::OidcArgs;
pub use audited::{Written, written};
pub use first::{
    FIRST_TOKEN, FirstTokenError, Held, first_token, first_token_name, hold_token, lend_token, store_token,
    take_back_token,
};
pub use refuse::out_of_reach;

use self::oidc::Oidc;
use tokens::Tokens;

/// Who callers are where nobody is asked.
const ANYBODY: &str = "anybody";

/// How callers of the API are known.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "access")]
pub struct AccessArgs {
    /// Let everybody who reaches the listener do everything, without credentials. For trials on one machine:
    /// loopback only.
    #[arg(long, env = "MUSTER_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,

    /// An OpenID provider whose tokens let callers in.
    #[command(flatten)]
    pub oidc: OidcArgs,
}

/// Callers would not be authenticated where other machines reach the listener.
#[derive(Debug, thiserror::Error)]
#[error(
    "refusing to let everybody in on {address}: --insecure-no-auth goes with loopback addresses (127.0.0.1, [::1]) only"
)]
pub struct OpenError {
    address: SocketAddr,
}

impl AccessArgs {
    /// # Errors
    /// [`OpenError`] if everybody would be let in at an address that other machines reach.
    pub fn check(&self, address: SocketAddr) -> Result<(), OpenError> {
        if self.insecure_no_auth && !address.ip().is_loopback() { Err(OpenError { address }) } else { Ok(()) }
    }
}

/// The gate. Clones share it.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    door: Door,
    audit: Audit,
}

enum Door {
    /// Everybody may do everything.
    Open,
    /// Callers prove who they are.
    Closed { tokens: Tokens, oidc: Option<Box<Oidc>>, lockout: Mutex<Lockout> },
}

impl Gate {
    /// A gate that knows the API tokens of the catalogue and the keys of the OpenID provider, and follows them.
    #[must_use]
    pub fn start(args: &AccessArgs, nats: &Nats, tasks: &Tasks, readiness: &Readiness) -> Self {
        if args.insecure_no_auth {
            tracing::warn!("--insecure-no-auth: whoever reaches the listener may do everything");
            return Self(Arc::new(Inner { door: Door::Open, audit: Audit::new(nats.clone()) }));
        }
        let tokens = Tokens::new(nats.clone());
        let (followed, ready, stop) =
            (tokens.clone(), readiness.register("access"), tasks.shutdown().clone());
        tasks.spawn("api tokens", async move { followed.follow(&ready, &stop).await });
        let oidc = Oidc::start(&args.oidc, nats, tasks, readiness).map(Box::new);
        let door = Door::Closed { tokens, oidc, lockout: Mutex::default() };
        Self(Arc::new(Inner { door, audit: Audit::new(nats.clone()) }))
    }

    /// Puts the gate before all services in `routes`.
    #[must_use]
    pub fn guard(&self, routes: Routes) -> Routes {
        let layer = axum::middleware::from_fn_with_state(self.clone(), admit::admit);
        Routes::from(routes.into_axum_router().layer(layer))
    }
}

fn anybody() -> Caller {
    Caller { name: ANYBODY.to_owned(), role: Role::Admin, reach: Reach::Everywhere, until: None }
}

/// Who calls, as the gate found out.
///
/// # Errors
/// `INTERNAL` if the request did not pass the gate: then nobody may do anything.
pub fn caller(extensions: &tonic::Extensions) -> Result<Caller, Status> {
    let caller = extensions.get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("the request did not pass the gate that knows who calls"))
}

#[cfg(test)]
mod tests;
