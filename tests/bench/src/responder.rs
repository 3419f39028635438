//! The other side of W2's floor: a process that answers raw requests and does nothing else.

use std::io::Read as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::StreamExt as _;

use crate::children::Running;
use crate::clients;

/// Where raw requests go: as long as the subject of a heartbeat.
pub const SUBJECT: &str = "svc.rawfloorx";
/// Queue group, as presence has one.
const QUEUE: &str = "presence";

/// Starts a responder with answers of `size` bytes in a process of its own.
///
/// # Errors
/// When it cannot be started.
pub fn start(url: &str, size: usize) -> Result<Running> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.args(["--role", "responder", "--url", url, "--size", &size.to_string()]);
    Running::start("responder", command.stdin(Stdio::piped()))
}

/// Answers until standard input closes, that is, until the process that started this one is gone.
///
/// # Errors
/// When the broker cannot be reached.
pub async fn serve(url: &str, size: usize) -> Result<()> {
    let client = clients::connect(url, "responder").await?;
    let mut requests = client.queue_subscribe(format!("{SUBJECT}.*"), QUEUE.to_owned()).await?;
    let payload = Bytes::from(vec![b'r'; size]);
    let answering = async {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                client.publish(reply, payload.clone()).await?;
            }
        }
        anyhow::Ok(())
    };
    let orphaned = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    tokio::select! {
        end = answering => end,
        _ = orphaned => Ok(()),
    }
}
