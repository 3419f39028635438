//! One request over TLS: to the Kubernetes API, or to a probe.

use std::net::SocketAddr;
use std::path::Path;

use runtime::tasks::TaskFailure;
use runtime::tls;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends a request and returns status and body. Answers to HTTP/1.0 come whole and end the connection.
///
/// # Errors
/// If there is no answer from the server that the CA vouches for.
pub async fn request(
    (ca, address): (&Path, SocketAddr),
    token: &str,
    (method, path): (&str, &str),
    body: Option<&Value>,
) -> Result<(u16, Value), TaskFailure> {
    let mut stream = tls::verified(ca, TcpStream::connect(address).await?).await?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let kind = match method {
        // Server-side apply names who writes.
        "PATCH" if path.contains("fieldManager=") => "application/apply-patch+yaml",
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n\
         Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, serde_json::from_str(body).unwrap_or_else(|_| body.into())))
}
