//! Entries of API tokens between their domain form and stored bytes.

use std::sync::Arc;

use domain::access::ApiToken;
use domain::catalog::Entry;
use domain::{ApiTokenName, Digest, GroupId, Timestamp};

use crate::DecodeError;
use crate::store::v1::ApiTokenState;

/// Longest name of a maker that is read, in bytes: names of callers are shorter.
const MAX_MAKER_BYTES: usize = 1024;

pub(super) fn api_token(token: &ApiToken) -> ApiTokenState {
    ApiTokenState {
        role: token.role.to_string(),
        group: token.group.as_ref().map(GroupId::to_string).unwrap_or_default(),
        created_at_ms: token.created_at.0,
        expires_at_ms: token.expires_at.0,
        secret_sha256: token.secret_digest.0.to_vec(),
        created_by: token.created_by.clone(),
    }
}

pub(super) fn read_api_token(name: ApiTokenName, state: ApiTokenState) -> Result<Entry, DecodeError> {
    let group = Some(state.group).filter(|group| !group.is_empty());
    let group = group.map(GroupId::new).transpose().map_err(|e| DecodeError::field("group", e))?;
    let digest = state.secret_sha256.try_into();
    let digest = digest.map_err(|_| DecodeError::field("secret_sha256", "is not 32 bytes long"))?;
    if state.created_by.len() > MAX_MAKER_BYTES {
        return Err(DecodeError::field("created_by", "is too long"));
    }
    Ok(Entry::ApiToken(Arc::new(ApiToken {
        name,
        role: state.role.parse().map_err(|e| DecodeError::field("role", e))?,
        group,
        created_at: Timestamp(state.created_at_ms),
        expires_at: Timestamp(state.expires_at_ms),
        secret_digest: Digest(digest),
        created_by: state.created_by,
    })))
}

#[cfg(test)]
pub(super) mod tests {
    use domain::access::Role;

    use super::*;

    pub(in crate::catalog) fn sample() -> Entry {
        Entry::ApiToken(Arc::new(ApiToken {
            name: ApiTokenName::new("ci").unwrap(),
            role: Role::Operator,
            group: Some(GroupId::new("web").unwrap()),
            created_at: Timestamp(1),
            expires_at: Timestamp(2),
            secret_digest: Digest([4; 32]),
            created_by: "token:admin".to_owned(),
        }))
    }

    #[test]
    fn broken_tokens_let_nobody_in() {
        let good =
            || ApiTokenState { role: "admin".into(), secret_sha256: vec![4; 32], ..ApiTokenState::default() };
        let read = |state| read_api_token(ApiTokenName::new("ci").unwrap(), state);
        assert!(read(good()).is_ok());
        assert!(read(ApiTokenState { role: String::new(), ..good() }).is_err());
        assert!(read(ApiTokenState { role: "root".into(), ..good() }).is_err());
        assert!(read(ApiTokenState { group: "a.b".into(), ..good() }).is_err());
        assert!(read(ApiTokenState { secret_sha256: vec![4; 31], ..good() }).is_err());
        assert!(read(ApiTokenState { created_by: "a".repeat(2000), ..good() }).is_err());
    }
}
