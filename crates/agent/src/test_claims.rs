//! Claims for tests, of an account that nobody knows.

use domain::{GroupId, Timestamp};
use nkeys::KeyPair;
use wire::jwt::{User, Validity};

use crate::access::Claims;

/// Claims for `key`, issued at the beginning of time.
pub(crate) fn claims(key: &KeyPair, group: &str, expires_at_s: u64) -> Claims {
    let account = KeyPair::new_account();
    let user = User {
        key: key.public_key(),
        name: "a".to_owned(),
        account: account.public_key(),
        group: Some(GroupId::new(group).unwrap()),
        permissions: None,
    };
    let sign = |expires_at| user.sign(&account, Validity { issued_at: Timestamp(0), expires_at }).unwrap();
    Claims { user: sign(Some(Timestamp(expires_at_s * 1000))), door: sign(None) }
}
