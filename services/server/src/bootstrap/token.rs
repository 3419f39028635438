//! The API token of the operator: in a Secret that only the operator's Pods mount, and as a hash in the store.
//!
//! It is a draft in the Secret until the store knows it, so that nobody presents what is not known yet, and a crash at any
//! point leaves a state from which the next try goes on.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use domain::ApiTokenName;
use domain::access::Role as ApiRole;
use runtime::access::{Held, hold_token};
use runtime::broker::RoleFiles;
use runtime::nats::{Connection, Nats, POLICY};
use wire::access::Role;
use wire::api_token::{BearerToken, SECRET_BYTES};

use super::BootstrapArgs;
use super::api::{Api, Secret};
use super::certificates::CA_CERT;
use super::plan::{self, Data};
use crate::backup::Place;

const TOKEN: &str = "token";
const DRAFT: &str = "draft";
const LOGIN: &str = "fleet.creds";
/// Longest wait for NATS and the store, which come up beside this: less than the deadline of the Job.
const PATIENCE: Duration = Duration::from_secs(8 * 60);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Makes the token, or looks after the one that is there.
pub(super) async fn fill(args: &BootstrapArgs, api: &Api, work: &Path) -> anyhow::Result<()> {
    let name = ApiTokenName::new(args.secret("operator"))?;
    let mut secret = api.secret(&args.secret("operator-token")).await?;
    let kept = if secret.data.contains_key(TOKEN) { TOKEN } else { DRAFT };
    if !secret.data.contains_key(kept) {
        let made = BearerToken { name, secret: runtime::ids::random_secret::<SECRET_BYTES>() };
        api.complete(&secret, &Data::from([(DRAFT.to_owned(), made.encode().into_bytes())])).await?;
        secret = api.secret(&secret.name).await?;
    }
    let bearer = read(&secret, kept)?;
    let connection = connection(args, api, work).await?;
    let new = kept == DRAFT;
    match patiently(&connection, &bearer, new).await? {
        Held::Stored | Held::Known if new => api.rename(&secret, DRAFT, TOKEN).await?,
        Held::Stored | Held::Known => {}
        Held::Other => anyhow::bail!(
            "the fleet has another API token {:?} than the one in Secret {}: revoke it (`muster api-token revoke {}`), or name its Secret in operator.tokenSecret",
            bearer.name.as_str(),
            secret.name,
            bearer.name
        ),
        Held::Revoked => tracing::warn!(
            secret = secret.name,
            name = %bearer.name,
            "the API token of the operator was revoked and stays so; take it out of the Secret to have another made"
        ),
    }
    Ok(())
}

fn read(secret: &Secret, key: &str) -> anyhow::Result<BearerToken> {
    let text = secret.data.get(key).map(|body| String::from_utf8_lossy(body)).unwrap_or_default();
    BearerToken::decode(text.trim()).with_context(|| {
        format!("Secret {} holds no API token under {key:?}: take it out to have one made", secret.name)
    })
}

/// Who may write API tokens is identity; its Secret has been filled before.
async fn connection(args: &BootstrapArgs, api: &Api, work: &Path) -> anyhow::Result<Connection> {
    let mut keys = api.secret(&args.secret("identity-keys")).await?;
    keys.data.retain(|name, _| name == LOGIN);
    let dir = work.join("identity");
    plan::restore(&keys.data, &dir)?;
    let login = RoleFiles::fleet_login(&dir, Role::Identity)?;
    let mut place = args.place.clone();
    if place.nats_tls.nats_ca_file.is_none() && !args.nats_name.is_empty() {
        let mut ca = api.secret(&args.secret("ca")).await?;
        ca.data.retain(|name, _| name == CA_CERT);
        let dir = work.join("nats-ca");
        plan::restore(&ca.data, &dir)?;
        place.nats_tls.nats_ca_file = Some(dir.join(CA_CERT));
    }
    Ok(place.connection("musterd bootstrap").with_login(Role::Identity, login))
}

async fn patiently(connection: &Connection, bearer: &BearerToken, new: bool) -> anyhow::Result<Held> {
    let started = tokio::time::Instant::now();
    loop {
        match hold(connection, bearer, new).await {
            Ok(held) => return Ok(held),
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(error.context("the API token of the operator cannot be stored"));
            }
            Err(error) => {
                tracing::info!(reason = runtime::log::chain(error.as_ref()), "waits for the store");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

async fn hold(connection: &Connection, bearer: &BearerToken, new: bool) -> anyhow::Result<Held> {
    let nats: Nats = Place::connect(connection).await?;
    let held = async {
        nats.await_stream(&POLICY).await?;
        anyhow::Ok(hold_token(&nats, bearer, ApiRole::Operator, new).await?)
    };
    let held = held.await;
    nats.close().await;
    held
}
