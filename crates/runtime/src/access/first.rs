//! API tokens that are made at the store itself, past the API: whoever has a control plane's data directory, or its
//! broker, administers it. The first one of a control plane is made so.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::access::{ApiToken, MAX_TTL, Reach, Role, revoke};
use domain::catalog::{Catalog, Entry};
use domain::{ApiTokenName, Revision, Span, Timestamp};
use wire::api_token::{BearerError, BearerToken, SECRET_BYTES};
use wire::subject::StoreKey;

use crate::nats::Nats;
use crate::store::{Author, Catalogue, CatchUpError, ChangeError};
use crate::tasks::attach;
use crate::{clock, ids};

/// Name of the token that is made where nobody says another.
pub const FIRST_TOKEN: &str = "local-admin";
/// Permission bits of its file.
const TOKEN_FILE_MODE: u32 = 0o600;
/// Largest token file that is read.
const MAX_FILE_BYTES: u64 = 4096;

/// Why there is no first token.
#[derive(Debug, thiserror::Error)]
pub enum FirstTokenError {
    /// The file cannot be used.
    #[error("cannot {action} the token file {}", path.display())]
    File {
        /// "read", "create" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("the token file {} holds no API token: move it away, and a new one is made", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BearerError,
    },
    /// The catalogue cannot be read.
    #[error("the catalogue cannot be read")]
    CatchUp(#[from] CatchUpError),
    /// The token cannot be stored.
    #[error("the token cannot be stored")]
    Store(#[from] ChangeError<std::convert::Infallible>),
}

/// [`FIRST_TOKEN`] as a name.
#[must_use]
pub fn first_token_name() -> ApiTokenName {
    ApiTokenName::new(FIRST_TOKEN).expect("invariant: the name of the first token is a name")
}

/// Makes sure that `path` holds an API token for an administrator of the whole fleet, named `name`.
///
/// A file that is there stays: its token is only given a new end before its time is over, and not even that once
/// it was revoked. If the store is empty, because it was lost, the token is stored again. Without a file a new token takes the place of what the store has by that name. The file is
/// written before the token is stored and named last, so that a crash in between leaves a draft and no more.
///
/// # Errors
/// [`FirstTokenError`] if the file or the store cannot be used.
pub async fn first_token(nats: &Nats, path: &Path, name: &ApiTokenName) -> Result<(), FirstTokenError> {
    if let Some(bearer) = read(path)? {
        // Revoked, or replaced by one of another machine: either way it stays as it is.
        return hold_token(nats, &bearer, Role::Admin, false).await.map(drop);
    }
    let bearer = BearerToken { name: name.clone(), secret: ids::random_secret::<SECRET_BYTES>() };
    let draft = path.with_extension("draft");
    let failed = |action, source| FirstTokenError::File { action, path: path.to_owned(), source };
    write(&draft, &bearer).map_err(|source| failed("write", source))?;
    store_token(nats, &bearer, Role::Admin).await?;
    std::fs::rename(&draft, path).map_err(|source| failed("create", source))?;
    tracing::info!(path = %path.display(), %name, "made an API token for the administrator");
    Ok(())
}

fn read(path: &Path) -> Result<Option<BearerToken>, FirstTokenError> {
    let failed = |source| FirstTokenError::File { action: "read", path: path.to_owned(), source };
    let text = match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE_BYTES => String::new(),
        Ok(_) => std::fs::read_to_string(path).map_err(failed)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let bearer = BearerToken::decode(text.trim());
    bearer.map(Some).map_err(|source| FirstTokenError::Content { path: path.to_owned(), source })
}

/// A draft of an earlier try is written over: nobody was given it.
fn write(draft: &Path, bearer: &BearerToken) -> std::io::Result<()> {
    match std::fs::remove_file(draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(TOKEN_FILE_MODE).open(draft)?;
    file.write_all(format!("{}\n", bearer.encode()).as_bytes())?;
    file.sync_all()?;
    let parent = draft.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Stores a token for the whole fleet, in place of what has its name.
///
/// # Errors
/// [`FirstTokenError`] if the store cannot be used.
pub async fn store_token(nats: &Nats, bearer: &BearerToken, role: Role) -> Result<(), FirstTokenError> {
    lend_token(nats, bearer, role, MAX_TTL).await
}

/// As [`store_token`], for `ttl`: for who gives it back with [`take_back_token`], and may die before.
///
/// # Errors
/// [`FirstTokenError`] if the store cannot be used.
pub async fn lend_token(
    nats: &Nats,
    bearer: &BearerToken,
    role: Role,
    ttl: Span,
) -> Result<(), FirstTokenError> {
    change(nats, |_| Some(entry(token(bearer, role, (clock::now(), ttl))))).await
}

/// Takes a token out of the store; one that is not there is as good.
///
/// # Errors
/// [`FirstTokenError`] if the store cannot be used.
pub async fn take_back_token(nats: &Nats, name: &ApiTokenName) -> Result<(), FirstTokenError> {
    change(nats, |catalog| revoke(catalog, &Reach::Everywhere, name)).await
}

/// What became of a token that somebody keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The store did not know it and does now.
    Stored,
    /// The store knows it; its end is half of [`MAX_TTL`] away, or was moved there.
    Known,
    /// The store knows another token by its name.
    Other,
    /// It was revoked, and stays so.
    Revoked,
}

/// Makes sure that the store knows a token for the whole fleet that is kept elsewhere, and that it does not end soon.
/// One that is `new` was never stored: then nobody can have revoked it. What else has its name stays.
///
/// # Errors
/// [`FirstTokenError`] if the store cannot be used.
pub async fn hold_token(
    nats: &Nats,
    bearer: &BearerToken,
    role: Role,
    new: bool,
) -> Result<Held, FirstTokenError> {
    let mut held = Held::Revoked;
    change(nats, |catalog| {
        let now = clock::now();
        let Some(stored) = catalog.api_token(&bearer.name) else {
            // In a store that was lost nobody revoked anything.
            let store = new || catalog.revision() == Revision(0);
            held = if store { Held::Stored } else { Held::Revoked };
            return store.then(|| entry(token(bearer, role, (now, MAX_TTL))));
        };
        if stored.value.secret_digest != bearer.digest() {
            held = Held::Other;
            return None;
        }
        held = Held::Known;
        let late = stored.value.expires_at.since(now) < MAX_TTL.scaled(1, 2);
        late.then(|| entry(ApiToken { expires_at: now + MAX_TTL, ..(*stored.value).clone() }))
    })
    .await?;
    Ok(held)
}

fn entry(token: ApiToken) -> Entry {
    Entry::ApiToken(Arc::new(token))
}

fn token(bearer: &BearerToken, role: Role, (now, ttl): (Timestamp, Span)) -> ApiToken {
    ApiToken {
        name: bearer.name.clone(),
        role,
        group: None,
        created_at: now,
        expires_at: now + ttl,
        secret_digest: bearer.digest(),
        created_by: "muster".to_owned(),
    }
}

async fn change(
    nats: &Nats,
    mut wanted: impl FnMut(&Catalog) -> Option<Entry>,
) -> Result<(), FirstTokenError> {
    let catalogue = Arc::new(Catalogue::new(nats.clone(), |key, body| match key {
        StoreKey::ApiToken(_) => Some(wire::catalog::read(key, body)),
        _ => None,
    }));
    let followed = Arc::clone(&catalogue);
    let _follow = attach(async move {
        // If it ends, the change below says that it cannot catch up.
        drop(followed.follow(None, std::future::pending()).await);
    });
    let author = Author { actor: "muster".to_owned(), message: "API token".to_owned(), trace_id: None };
    catalogue.change(&author, |catalog| Ok(wanted(catalog).into_iter().collect())).await?;
    Ok(())
}
