//! Signing in at the OpenID provider of a server: what it is asked for, and what becomes of its answers.

pub(crate) mod browser;
pub(crate) mod device;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oidc::{Address, Answer, Http, Issuer, Provider, ProviderError, Token};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tonic_types::StatusExt as _;
use wire::api::v1::WhoAmIRequest;

use crate::client::Client;
use crate::config::Config;
use crate::contexts::{self, Context, Contexts, SignIn};
use crate::credential::Credential;
use crate::failure::Failure;
use crate::view::style::safe;

/// How long before its end a token is exchanged: longer than any command takes to be heard.
const RENEW_BEFORE_SECS: u64 = 30;
/// How long a command waits while another one exchanges the token: as long as two requests may take, and a little.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);
/// How often it looks.
const LOCK_LOOK: Duration = Duration::from_millis(50);
/// Longest explanation of a provider that is shown, in characters.
const MAX_SAID: usize = 300;

/// Whom a server sends people to, as it says to who shows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) issuer: Issuer,
    pub(crate) client_id: String,
    pub(crate) scopes: String,
}

/// A provider, and as what it is asked.
pub(crate) struct Party {
    pub(crate) http: Http,
    pub(crate) provider: Provider,
    pub(crate) challenge: Challenge,
}

/// What a provider gives. No `Debug`, so that it is not printed by accident.
#[derive(Deserialize)]
pub(crate) struct Tokens {
    pub(crate) id_token: Option<String>,
    pub(crate) refresh_token: Option<String>,
}

/// Why it gives nothing (RFC 6749, section 5.2).
#[derive(Debug, Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

impl Refusal {
    fn told(&self) -> String {
        told(&self.error, self.error_description.as_deref())
    }
}

fn told(error: &str, description: Option<&str>) -> String {
    let text = match description {
        Some(description) => format!("{description} ({error})"),
        None => error.to_owned(),
    };
    safe(&text.chars().take(MAX_SAID).collect::<String>()).into_owned()
}

impl Challenge {
    /// Asks a server where people sign in.
    pub(crate) async fn of(client: &Client) -> Result<Self, Failure> {
        let status = match client.access().who_am_i(WhoAmIRequest {}).await {
            Ok(_) => return Err(nowhere("the server lets everybody in, and there is nobody to sign in as")),
            Err(status) => status,
        };
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.reason == "NO_CREDENTIAL");
        let Some(info) = info else { return Err(client.refusal(status)) };
        let field = |name: &str| info.metadata.get(name).cloned();
        let fields = (field("oidc_issuer"), field("oidc_client_id"), field("oidc_scopes"));
        let (Some(issuer), Some(client_id), Some(scopes)) = fields else {
            return Err(nowhere("the server knows no OpenID provider to sign in at"));
        };
        let issuer = issuer.parse().map_err(|error| {
            Failure::Answer(format!("it sends people to {issuer:?} to sign in, which {error}"))
        })?;
        Ok(Self { issuer, client_id, scopes })
    }
}

fn nowhere(cause: &str) -> Failure {
    let way_out = "`muster login` without --oidc takes an API token; an administrator names a provider with \
                   `musterd --oidc-issuer`";
    Failure::Refused { cause: cause.to_owned(), way_out: way_out.to_owned() }
}

impl Party {
    /// Looks a provider up.
    pub(crate) async fn find(challenge: Challenge, ca: Option<PathBuf>) -> Result<Self, Failure> {
        let http = Http::new(ca);
        let found = Provider::discover(&http, &challenge.issuer).await;
        let provider = found.map_err(|source| unusable(&challenge.issuer, source))?;
        Ok(Self { http, provider, challenge })
    }

    /// Asks for tokens: they, or the provider's refusal.
    async fn tokens(&self, fields: &[(&str, &str)]) -> Result<Result<Tokens, Refusal>, Failure> {
        let place = self.place(self.provider.token.as_ref(), "token_endpoint")?;
        let answer = self.post(place, fields).await?;
        self.read(&answer)
    }

    async fn post(&self, place: &Address, fields: &[(&str, &str)]) -> Result<Answer, Failure> {
        let answer = self.http.post(place, fields).await;
        answer.map_err(|source| unusable(&self.challenge.issuer, source.into()))
    }

    fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<Result<T, Refusal>, Failure> {
        let read = match answer.status {
            200 => serde_json::from_slice(&answer.body).map(Ok),
            _ => serde_json::from_slice(&answer.body).map(Err),
        };
        // What an answer holds is a secret, so the error tells nothing of it.
        read.map_err(|_| Failure::Refused {
            cause: format!(
                "{} answered with HTTP status {} and something else than tokens or a refusal",
                self.challenge.issuer, answer.status
            ),
            way_out: "is it the right provider? its administrator finds more in its log".to_owned(),
        })
    }

    fn place<'a>(&self, place: Option<&'a Address>, what: &str) -> Result<&'a Address, Failure> {
        place.ok_or_else(|| Failure::Refused {
            cause: format!(
                "{} has no {what}, so that nobody can sign in there like this",
                self.challenge.issuer
            ),
            way_out: "sign in with `muster login --oidc`, with and without --device".to_owned(),
        })
    }

    fn refused(&self, refusal: &Refusal) -> Failure {
        self.said_no(&refusal.told())
    }

    fn said_no(&self, told: &str) -> Failure {
        Failure::Refused {
            cause: format!("{} refused the sign-in: {told}", self.challenge.issuer),
            way_out: "sign in again; if it stays so, ask whoever runs the provider".to_owned(),
        }
    }
}

fn unusable(issuer: &Issuer, source: ProviderError) -> Failure {
    Failure::Provider { issuer: issuer.to_string(), source: Box::new(source) }
}

/// What is kept of a sign-in, and the token that the server is shown.
pub(crate) fn kept(
    challenge: &Challenge,
    ca: Option<PathBuf>,
    tokens: Tokens,
) -> Result<(String, SignIn), Failure> {
    let Some(token) = tokens.id_token else {
        return Err(Failure::Refused {
            cause: format!("{} gave no ID token", challenge.issuer),
            way_out: "the scopes that the server asks for (--oidc-scopes of musterd) have to include openid"
                .to_owned(),
        });
    };
    let expires_at = claim(&token, "exp").and_then(|exp| exp.as_f64()).unwrap_or_default();
    let sign_in = SignIn {
        issuer: challenge.issuer.to_string(),
        client_id: challenge.client_id.clone(),
        ca,
        // Whoever verifies the token looks at the exact time; here it is about when to ask for another.
        expires_at: whole(expires_at),
        refresh_token: tokens.refresh_token,
    };
    Ok((token, sign_in))
}

/// What a token of one's own claims.
pub(crate) fn claim(token: &str, name: &str) -> Option<serde_json::Value> {
    Token::read(token).ok()?.unverified()?.get(name).cloned()
}

fn whole(seconds: f64) -> u64 {
    Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The same with a token that is good for a while, if it is one that was signed in for.
pub(crate) async fn renewed(config: Config) -> Result<Config, Failure> {
    let Some((name, path)) = config.kept.clone().zip(contexts::path()) else { return Ok(config) };
    if !due(Contexts::load(&path)?.contexts.get(&name)) {
        return Ok(config);
    }
    // Providers take a refresh token once only, so one command at a time may use it.
    let _lock = locked(&path.with_extension("lock")).await?;
    let mut contexts = Contexts::load(&path)?;
    let Some(context) = contexts.contexts.get_mut(&name) else { return Ok(config) };
    if due(Some(context)) {
        renew(&name, context).await?;
        let token = context.token.clone();
        contexts.save(&path)?;
        return with_token(config, &token);
    }
    let token = context.token.clone();
    with_token(config, &token)
}

fn with_token(config: Config, token: &str) -> Result<Config, Failure> {
    let credential = Credential::new(token, "the context")?;
    Ok(Config { credential, ..config })
}

fn due(context: Option<&Context>) -> bool {
    let sign_in = context.and_then(|context| context.sign_in.as_ref());
    sign_in.is_some_and(|sign_in| sign_in.expires_at <= now().saturating_add(RENEW_BEFORE_SECS))
}

async fn renew(name: &str, context: &mut Context) -> Result<(), Failure> {
    let again = |cause: String| Failure::Refused {
        cause,
        way_out: format!("sign in again: `muster login {name} --oidc --server {}`", context.server),
    };
    let Some(sign_in) = &context.sign_in else { return Ok(()) };
    let Some(refresh) = &sign_in.refresh_token else {
        // Without one the token is used to its end.
        if sign_in.expires_at > now() {
            return Ok(());
        }
        return Err(again(format!("the sign-in of context {name} has ended")));
    };
    let issuer = sign_in.issuer.parse();
    let issuer = issuer.map_err(|error| again(format!("the issuer of context {name} {error}")))?;
    let challenge = Challenge { issuer, client_id: sign_in.client_id.clone(), scopes: String::new() };
    let party = Party::find(challenge, sign_in.ca.clone()).await?;
    let fields =
        [("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", &sign_in.client_id)];
    let given = party.tokens(&fields).await?;
    let mut tokens = given
        .map_err(|refusal| again(format!("the sign-in of context {name} is over: {}", refusal.told())))?;
    // One that is not replaced stays good.
    tokens.refresh_token = tokens.refresh_token.or_else(|| Some(refresh.clone()));
    let (token, sign_in) = kept(&party.challenge, sign_in.ca.clone(), tokens)?;
    (context.token, context.sign_in) = (token, Some(sign_in));
    Ok(())
}

/// A lock that other commands respect. It ends with the file that is returned.
async fn locked(path: &Path) -> Result<std::fs::File, Failure> {
    let failed = |source| Failure::Write { name: path.display().to_string(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(failed)?;
    let acquired = tokio::time::timeout(LOCK_TIMEOUT, async {
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_LOOK).await,
                Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    });
    let late = |_| Failure::Refused {
        cause: "another muster has been renewing the sign-in for too long".to_owned(),
        way_out: format!("repeat the command; the lock is {}", path.display()),
    };
    acquired.await.map_err(late)??;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_provider_says_is_shown_without_harm() {
        assert_eq!(told("access_denied", None), "access_denied");
        assert_eq!(told("x", Some("no\u{1b}[2J")), "no\\u{1b}[2J (x)");
        assert!(told("x", Some(&"a".repeat(5_000))).len() <= MAX_SAID);
    }

    #[test]
    fn a_token_is_exchanged_before_its_end_if_it_was_signed_in_for() {
        let context = |expires_at: Option<u64>| Context {
            server: "https://h:1".into(),
            ca: None,
            token: "t".into(),
            sign_in: expires_at.map(|expires_at| SignIn {
                issuer: "https://i".into(),
                client_id: "c".into(),
                ca: None,
                expires_at,
                refresh_token: None,
            }),
        };
        assert!(!due(None) && !due(Some(&context(None))));
        assert!(due(Some(&context(Some(now() + 10)))));
        assert!(!due(Some(&context(Some(now() + 1_000)))));
        assert_eq!((whole(-1.0), whole(f64::NAN), whole(7.9)), (0, 0, 7));
    }
}
