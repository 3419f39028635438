//! A sign-in with a browser on this machine: authorization code with PKCE, and an answer to a port of our own
//! (RFC 8252, 7636).

use std::net::Ipv4Addr;
use std::time::Duration;

use oidc::{code_challenge, fields, form, secret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Party, Tokens, claim, told};
use crate::failure::Failure;
use crate::terminal::Terminal;

/// How long a person may take to sign in.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long a connection may take to say what it wants: browsers open some in advance and say nothing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest request that is read: a code and a state are short.
const MAX_REQUEST_BYTES: usize = 16 << 10;
/// Where the provider sends the browser back to.
const CALLBACK: &str = "/callback";

/// Signs in.
pub(crate) async fn sign_in(party: &Party, terminal: &mut Terminal) -> Result<Tokens, Failure> {
    let place = party.place(party.provider.authorization.as_ref(), "authorization_endpoint")?;
    let failed = |source| Failure::Read { name: "the port for the answer of the browser".to_owned(), source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let redirect = format!("http://127.0.0.1:{port}{CALLBACK}");
    let random = || secret().map_err(|error| Failure::Answer(error.to_string()));
    let (state, nonce, verifier) = (random()?, random()?, random()?);
    let (client_id, scopes) = (&party.challenge.client_id, &party.challenge.scopes);
    let challenge = code_challenge(&verifier);
    let mut query = vec![
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", &redirect),
        ("scope", scopes),
        ("state", &state),
        ("nonce", &nonce),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    // A refresh token is given to who was asked for it (OpenID Connect Core, section 11).
    if scopes.split(' ').any(|scope| scope == "offline_access") {
        query.push(("prompt", "consent"));
    }
    let join = if place.as_str().contains('?') { '&' } else { '?' };
    terminal.notice("To sign in, open this in a browser on this machine:")?;
    terminal.notice(&format!("  {place}{join}{}", form(&query)))?;
    let answer = tokio::time::timeout(SIGN_IN_TIMEOUT, answered(&listener, &state)).await;
    let answer = answer.map_err(|_| Failure::Refused {
        cause: format!("nobody signed in within {} minutes", SIGN_IN_TIMEOUT.as_secs() / 60),
        way_out: "repeat the command; --device is for browsers on other machines".to_owned(),
    })?;
    let code = code(party, answer.map_err(failed)?)?;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", &redirect),
        ("client_id", client_id),
        ("code_verifier", verifier.as_str()),
    ];
    let tokens = party.tokens(&fields).await?.map_err(|refusal| party.refused(&refusal))?;
    let token = tokens.id_token.as_deref().unwrap_or_default();
    if !token.is_empty() && claim(token, "nonce").as_ref().and_then(|it| it.as_str()) != Some(&nonce) {
        return Err(party.said_no("its token is the answer to another sign-in"));
    }
    Ok(tokens)
}

/// What the provider answered through the browser.
#[derive(Debug, Default, PartialEq, Eq)]
struct Callback {
    code: Option<String>,
    error: Option<String>,
    description: Option<String>,
    issuer: Option<String>,
}

fn code(party: &Party, answer: Callback) -> Result<String, Failure> {
    if answer.issuer.is_some_and(|issuer| issuer != party.challenge.issuer.as_str()) {
        return Err(party.said_no("the answer came from another provider"));
    }
    match (answer.code, answer.error) {
        (Some(code), None) => Ok(code),
        (_, Some(error)) => Err(party.said_no(&told(&error, answer.description.as_deref()))),
        (None, None) => Err(party.said_no("its answer holds nothing")),
    }
}

/// Waits for the answer to this sign-in; what else comes is turned away.
async fn answered(listener: &TcpListener, state: &str) -> std::io::Result<Callback> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let request = tokio::time::timeout(REQUEST_TIMEOUT, request(&mut stream)).await;
        let Ok(Ok(target)) = request else { continue };
        let found = callback(&target, state);
        let (status, text) = match &found {
            Some(Callback { code: Some(_), error: None, .. }) => {
                ("200 OK", "You may close this page and go back to the terminal.")
            }
            Some(_) => ("200 OK", "The sign-in went wrong; the terminal says why."),
            None => ("404 Not Found", "This is not the answer to the sign-in that muster waits for."),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n\
             Referrer-Policy: no-referrer\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        // A browser that went away has given its answer all the same.
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, async {
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        })
        .await;
        if let Some(found) = found {
            return Ok(found);
        }
    }
}

/// What is asked for in the first line of a request.
async fn request(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut read = Vec::new();
    let mut part = [0; 2048];
    while !read.windows(4).any(|end| end == b"\r\n\r\n") && read.len() < MAX_REQUEST_BYTES {
        let length = stream.read(&mut part).await?;
        if length == 0 {
            break;
        }
        read.extend_from_slice(&part[..length]);
    }
    let text = String::from_utf8_lossy(&read);
    let mut words = text.lines().next().unwrap_or_default().split(' ');
    Ok(match (words.next(), words.next()) {
        (Some("GET"), Some(target)) => target.to_owned(),
        _ => String::new(),
    })
}

/// The answer in an address that was asked for, if it is one to this sign-in.
fn callback(target: &str, state: &str) -> Option<Callback> {
    let (path, query) = target.split_once('?')?;
    if path != CALLBACK {
        return None;
    }
    let (mut callback, mut states) = (Callback::default(), Vec::new());
    for (name, value) in fields(query) {
        match name.as_str() {
            "state" => states.push(value),
            "code" => callback.code = Some(value),
            "error" => callback.error = Some(value),
            "error_description" => callback.description = Some(value),
            "iss" => callback.issuer = Some(value),
            _ => {}
        }
    }
    (states == [state]).then_some(callback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_sign_in_counts() {
        let found = callback("/callback?code=a%2Bb&state=s&iss=https%3A%2F%2Fi", "s").unwrap();
        assert_eq!((found.code.as_deref(), found.issuer.as_deref()), (Some("a+b"), Some("https://i")));
        assert!(callback("/callback?error=access_denied&state=s", "s").unwrap().code.is_none());
        for other in [
            "/callback?code=a&state=x",
            "/callback?code=a",
            "/?code=a&state=s",
            "/callback",
            "",
            "/callback?code=a&state=s&state=x",
            "/favicon.ico",
        ] {
            assert_eq!(callback(other, "s"), None, "{other}");
        }
    }
}
