//! A sign-in with a browser on another machine (RFC 8628).

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::{Party, Tokens};
use crate::failure::Failure;
use crate::terminal::Terminal;
use crate::view::style::safe;

/// How often the provider is asked where it does not say (RFC 8628, section 3.2).
const INTERVAL_SECS: u64 = 5;
/// The longest that it may ask us to wait in between.
const MAX_INTERVAL_SECS: u64 = 60;
/// What is added when it asks for patience (RFC 8628, section 3.5).
const SLOW_DOWN_SECS: u64 = 5;
/// How long a person may take, whatever the provider allows.
const MAX_WAIT_SECS: u64 = 30 * 60;

#[derive(Deserialize)]
struct Begun {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

/// Signs in.
pub(crate) async fn sign_in(party: &Party, terminal: &mut Terminal) -> Result<Tokens, Failure> {
    let place = party.place(party.provider.device_authorization.as_ref(), "device_authorization_endpoint")?;
    let (client_id, scopes) = (&party.challenge.client_id, &party.challenge.scopes);
    let answer = party.post(place, &[("client_id", client_id), ("scope", scopes)]).await?;
    let begun: Begun = party.read(&answer)?.map_err(|refusal| party.refused(&refusal))?;
    terminal.notice(&format!(
        "To sign in, open {} in any browser and enter {}",
        safe(&begun.verification_uri),
        safe(&begun.user_code)
    ))?;
    if let Some(complete) = &begun.verification_uri_complete {
        terminal.notice(&format!("or open {}", safe(complete)))?;
    }
    let end = Instant::now() + Duration::from_secs(begun.expires_in.min(MAX_WAIT_SECS));
    let mut interval = begun.interval.unwrap_or(INTERVAL_SECS).clamp(1, MAX_INTERVAL_SECS);
    loop {
        let next = Instant::now() + Duration::from_secs(interval);
        if next >= end {
            return Err(party.said_no("nobody entered the code in time"));
        }
        sleep_until(next).await;
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", &begun.device_code),
            ("client_id", client_id),
        ];
        match party.tokens(&fields).await? {
            Ok(tokens) => return Ok(tokens),
            Err(refusal) if refusal.error == "authorization_pending" => {}
            Err(refusal) if refusal.error == "slow_down" => {
                interval = interval.saturating_add(SLOW_DOWN_SECS).min(MAX_INTERVAL_SECS);
            }
            Err(refusal) => return Err(party.refused(&refusal)),
        }
    }
}
