//! Tokens of an OpenID provider at the gate: its options, and who a token is.

mod keys;
mod places;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use clap::Args;
use domain::access::oidc::{Admitted, Denied, RoleRule, Rules};
use domain::access::{Caller, Reach};
use oidc::{Http, Issuer, Token, TokenError};
use serde_json::Value;

use crate::clock;
use crate::nats::Nats;
use crate::ready::Readiness;
use crate::tasks::Tasks;

use keys::KeyRing;
pub(super) use keys::KeysUnknown;
use places::Places;

/// An OpenID provider whose tokens let callers in.
#[derive(Debug, Clone, Default, Args)]
#[group(skip)]
pub struct OidcArgs {
    /// OpenID provider whose tokens let callers in, beside API tokens: its issuer, exactly as tokens name it. https,
    /// or http on this machine.
    #[arg(
        long,
        env = "MUSTER_OIDC_ISSUER",
        value_name = "URL",
        requires_all = ["oidc_audience", "oidc_role"],
        conflicts_with = "insecure_no_auth"
    )]
    pub oidc_issuer: Option<Issuer>,

    /// Audience (aud) that tokens must be for. For the ID tokens of `muster login` it is the client id.
    #[arg(long, env = "MUSTER_OIDC_AUDIENCE", value_name = "NAME", requires = "oidc_issuer")]
    pub oidc_audience: Option<String>,

    /// Client that `muster login --oidc` logs in as: a public one, with http://127.0.0.1/callback on any port and,
    /// for --device, the device grant. Without it: --oidc-audience.
    #[arg(long, env = "MUSTER_OIDC_CLIENT_ID", value_name = "ID", requires = "oidc_issuer")]
    pub oidc_client_id: Option<String>,

    /// Scopes that `muster login --oidc` asks for, separated by commas.
    #[arg(
        long,
        env = "MUSTER_OIDC_SCOPES",
        value_name = "SCOPE",
        value_delimiter = ',',
        default_value = "openid,offline_access"
    )]
    pub oidc_scopes: Vec<String>,

    /// Claim with the groups of the caller: a text or a list of texts.
    #[arg(long, env = "MUSTER_OIDC_GROUPS_CLAIM", value_name = "CLAIM", default_value = "groups")]
    pub oidc_groups_claim: String,

    /// Claim with the name of the caller, which histories and the audit show. Take one that the provider gives to
    /// one person only and that people cannot change themselves.
    #[arg(long, env = "MUSTER_OIDC_NAME_CLAIM", value_name = "CLAIM", default_value = "sub")]
    pub oidc_name_claim: String,

    /// Role of the members of one of its groups, in the whole fleet or bound to a part of the tree: GROUP=ROLE or
    /// GROUP=ROLE@/path. Several are separated by semicolons or given one by one; the first counts whose group the
    /// caller is in.
    #[arg(
        long,
        env = "MUSTER_OIDC_ROLES",
        value_name = "RULE",
        value_delimiter = ';',
        requires = "oidc_issuer"
    )]
    pub oidc_role: Vec<RoleRule>,

    /// PEM file with the CAs that may vouch for the provider. Without it: those that this machine trusts.
    #[arg(long, env = "MUSTER_OIDC_CA_FILE", value_name = "FILE", requires = "oidc_issuer")]
    pub oidc_ca_file: Option<PathBuf>,
}

/// Why a token lets nobody in.
pub(super) enum Unproved {
    /// Its issuer did not sign it.
    Token(TokenError),
    /// It says itself that it is from another issuer.
    Foreign(Denied),
    /// Its issuer signed it, and it is of no use here.
    Denied(Denied),
    /// Its holder is bound to a place where no group stands.
    NoPlace(Admitted),
    /// It cannot be told now.
    Keys(KeysUnknown),
    /// Not all groups have been read yet.
    Loading,
}

/// The provider of this control plane, as the gate knows it.
pub(super) struct Oidc {
    issuer: Issuer,
    client_id: String,
    scopes: String,
    rules: Rules,
    keys: KeyRing,
    places: Option<Places>,
}

impl Oidc {
    /// Follows the keys of the provider, and the groups that callers may be bound to. `None` without a provider.
    pub(super) fn start(args: &OidcArgs, nats: &Nats, tasks: &Tasks, readiness: &Readiness) -> Option<Self> {
        let (issuer, audience) = (args.oidc_issuer.clone()?, args.oidc_audience.clone()?);
        let keys = KeyRing::default();
        let (followed, http, stop) =
            (keys.clone(), Http::new(args.oidc_ca_file.clone()), tasks.shutdown().clone());
        let asked = issuer.clone();
        tasks.spawn("keys of the OpenID provider", async move {
            followed.follow(&http, &asked, &stop).await;
            Ok::<(), std::convert::Infallible>(())
        });
        let wanted: BTreeSet<_> = args.oidc_role.iter().filter_map(|rule| rule.under.clone()).collect();
        let places = (!wanted.is_empty()).then(|| Places::new(wanted));
        if let Some(places) = places.clone() {
            let (nats, ready, stop) =
                (nats.clone(), readiness.register("places of roles"), tasks.shutdown().clone());
            tasks.spawn("places of roles", async move { places.follow(&nats, &ready, &stop).await });
        }
        tracing::info!(%issuer, audience, "tokens of an OpenID provider let callers in");
        Some(Self {
            client_id: args.oidc_client_id.clone().unwrap_or_else(|| audience.clone()),
            scopes: args.oidc_scopes.join(" "),
            rules: Rules {
                issuer: issuer.to_string(),
                audience,
                name_claim: args.oidc_name_claim.clone(),
                groups_claim: args.oidc_groups_claim.clone(),
                roles: args.oidc_role.clone(),
            },
            issuer,
            keys,
            places,
        })
    }

    /// What whoever shows nothing is told, to get a token: `muster login` reads it.
    pub(super) fn challenge(&self) -> HashMap<String, String> {
        let fields = [
            ("oidc_issuer", self.issuer.as_str()),
            ("oidc_client_id", &self.client_id),
            ("oidc_scopes", &self.scopes),
        ];
        fields.map(|(field, value)| (field.to_owned(), value.to_owned())).into()
    }

    /// Who a token is.
    pub(super) async fn caller(&self, text: &str) -> Result<Caller, Unproved> {
        let token = Token::read(text).map_err(Unproved::Token)?;
        // Nothing hangs on this but the answer: its keys are not ours, so that the next step would refuse it as well.
        let claimed = token.unverified();
        let claimed = claimed.as_ref().and_then(|claims| claims.get("iss")?.as_str());
        if claimed != Some(self.issuer.as_str()) {
            return Err(Unproved::Foreign(Denied::Issuer(self.issuer.to_string())));
        }
        let keys = self.keys.with_key_of(&token).await.map_err(Unproved::Keys)?;
        let claims: Value = token.verify(&keys).map_err(Unproved::Token)?;
        let admitted = self.rules.admit(&claims, clock::now()).map_err(Unproved::Denied)?;
        let reach = match (&admitted.under, &self.places) {
            (None, _) => Reach::Everywhere,
            (Some(path), Some(places)) => match places.group_at(path) {
                Ok(Some(group)) => Reach::Under(group),
                Ok(None) => return Err(Unproved::NoPlace(admitted)),
                Err(places::Loading) => return Err(Unproved::Loading),
            },
            (Some(_), None) => return Err(Unproved::NoPlace(admitted)),
        };
        let Admitted { name, role, until, .. } = admitted;
        Ok(Caller { name, role, reach, until: Some(until) })
    }
}
