//! `muster content fetch`.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use domain::Digest;
use domain::content::Manifest;
use indicatif::ProgressBar;
use tonic::Streaming;
use wire::api::v1::fetch_response::Piece;
use wire::api::v1::revision_selector::Which;
use wire::api::v1::{FetchHead, FetchRequest, FetchResponse, Revision, RevisionSelector};

use super::revision::{REVISIONS, Selected, channel, find, missing_revisions};
use crate::client::{Client, passing, patiently};
use crate::content::progress;
use crate::content::target::{Place, Target, TargetError};
use crate::content::tries::Tries;
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Longest silence of a server that is sending.
const STALL: std::time::Duration = std::time::Duration::from_secs(60);

/// Download a revision, verified, without an agent
///
/// Every chunk, every file and the whole are checked against the manifest before a file gets its name. What is there
/// already and right is not fetched again, so a fetch that broke off goes on where it was.
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster content fetch definitions/ips --to rules/\n  \
     muster content fetch models/text@stable --as model.bin\n  \
     muster content fetch definitions/ips 7 --trust-root trust-root --manifest 7bb9...\n\n{REVISIONS}"
))]
pub(crate) struct Fetch {
    #[command(flatten)]
    selected: Selected,
    /// Folder to write into; other files there are left alone [default: the channel's last name]
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    to: Option<PathBuf>,
    /// Content of one file: write it as this file
    #[arg(long = "as", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Replace files that are there and are something else
    #[arg(long)]
    force: bool,
    /// Take only the content with this manifest (its SHA-256, as `content show` prints it)
    #[arg(long, value_name = "DIGEST", value_parser = parse_digest)]
    manifest: Option<Digest>,
    /// Also check signatures, with the trust root in this file (an agent keeps it in its state directory)
    #[arg(long, value_name = "FILE")]
    trust_root: Option<PathBuf>,
}

/// A digest in hexadecimal digits, or in base64 as the JSON form of messages has it.
fn parse_digest(text: &str) -> Result<Digest, String> {
    let bytes = match text.len() {
        64 => hex::decode(text).ok(),
        44 => BASE64_STANDARD.decode(text).ok(),
        _ => None,
    };
    let digest = bytes.and_then(|bytes| bytes.try_into().ok());
    digest.map(Digest).ok_or_else(|| "must be 64 hexadecimal digits, or base64".to_owned())
}

/// A download under way.
struct Download {
    client: Client,
    revision: Revision,
    /// The stream that the manifest came with, for the chunks from the first one on.
    first: Option<Streaming<FetchResponse>>,
    /// Bytes that travelled.
    fetched: u64,
}

impl Fetch {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        tokio::select! {
            outcome = Box::pin(self.work(session)) => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::Stopped(
                "stopped; what was fetched is kept, and the same command goes on from there".to_owned(),
            )),
        }
    }

    async fn work(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let trust = self.trust_root.as_deref().map(read_trust_root).transpose()?;
        let found = channel(&session.client, self.selected.channel()).await?;
        let revision = match self.selected.revision()? {
            Some(text) => find(&found, text)?,
            None => found.revisions.first().ok_or_else(|| missing_revisions(&found))?,
        };
        let mut download =
            Download { client: session.client.clone(), revision: revision.clone(), first: None, fetched: 0 };
        let head = download.begin(session).await?;
        let manifest = self.check(&head, revision, trust.as_ref())?;
        let place = self.place();
        let target = survey(session, &place, manifest, self.force).await?;
        let missing = target.missing();
        let target = download.run(session, target).await?;
        let manifest = target.manifest().clone();
        if let Some(other) = finish(session, target).await? {
            session.notice(&format!("note: {} and other files there were left alone", other.display()))?;
        }
        let revision = download.revision;
        let fetched = view::content::Fetched {
            place: match &place {
                Place::Folder(place) | Place::File(place) => place.display().to_string(),
            },
            files: manifest.files().len(),
            bytes: manifest.content_bytes(),
            missing,
            travelled: download.fetched,
            signed: trust.is_some(),
        };
        session.show(&revision, |it, style| view::content::fetched(it, &fetched, style))
    }

    fn place(&self) -> Place {
        let last = self.selected.channel().rsplit('/').next().unwrap_or_default();
        match (&self.file, &self.to) {
            (Some(file), _) => Place::File(file.clone()),
            (None, Some(folder)) => Place::Folder(folder.clone()),
            (None, None) => Place::Folder(PathBuf::from(last)),
        }
    }

    /// The manifest, once it has proved to be the one that is wanted.
    fn check(
        &self,
        head: &FetchHead,
        revision: &Revision,
        trust: Option<&wire::root::Trust>,
    ) -> Result<Manifest, Failure> {
        let answer = |why: &str| Failure::Answer(format!("the manifest {why}"));
        let envelope = wire::envelope::parse(&head.manifest).map_err(|_| answer("cannot be read"))?;
        let digest = Digest::of(&envelope.payload);
        if revision.manifest != digest.0 {
            return Err(answer("is not the one of the revision"));
        }
        if let Some(wanted) = self.manifest.filter(|wanted| *wanted != digest) {
            return Err(Failure::Refused {
                cause: format!("revision {} has manifest {digest}, not {wanted}", revision.revision),
                way_out: format!("`muster content show {}` shows which revision has it", revision.channel),
            });
        }
        let manifest = match trust {
            None => wire::content::read_manifest(&envelope.payload).map_err(|_| answer("cannot be read"))?,
            Some(trust) => verify(&envelope, &digest, trust)?,
        };
        if manifest.channel().as_str() != self.selected.channel() {
            return Err(answer("is for another channel"));
        }
        Ok(manifest)
    }
}

fn verify(
    envelope: &wire::agent::v1::Envelope,
    digest: &Digest,
    trust: &wire::root::Trust,
) -> Result<Manifest, Failure> {
    let untrusted = |why: String| Failure::Refused {
        cause: format!("the content is not trusted: {why}"),
        way_out: "is the trust root the one of this fleet? an agent that joined it keeps it as `trust-root`"
            .to_owned(),
    };
    let manifest = wire::content::open_manifest(envelope, digest, &trust.content)
        .map_err(|error| untrusted(format!("{error}: {}", source_of(&error))))?;
    if *manifest.fleet() != trust.fleet {
        return Err(untrusted(format!("it is for fleet {}, not {}", manifest.fleet(), trust.fleet)));
    }
    Ok(manifest)
}

fn source_of(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

fn read_trust_root(path: &Path) -> Result<wire::root::Trust, Failure> {
    let limit = u64::try_from(wire::root::MAX_CHAIN_BYTES).unwrap_or(u64::MAX);
    let bytes = crate::manifests::read_bounded(path, limit)?;
    let chain = wire::root::Chain::read(&bytes);
    let chain =
        chain.map_err(|error| Failure::Input(format!("{} is no trust root: {error}", path.display())))?;
    Ok(wire::root::Trust::from(chain.newest()))
}

async fn survey(
    session: &Session<'_>,
    place: &Place,
    manifest: Manifest,
    force: bool,
) -> Result<Target, Failure> {
    let bar = progress::bytes(session.terminal.draws_progress(), "looking", manifest.content_bytes());
    let (place, watched) = (place.clone(), ProgressBar::clone(&bar));
    let looking = tokio::task::spawn_blocking(move || Target::survey(&place, manifest, force, &watched));
    let target = looking.await.expect("invariant: looking at files does not panic");
    Ok(target?)
}

/// Some file in the same folder that is not of this content, if there is one.
async fn finish(session: &Session<'_>, target: Target) -> Result<Option<PathBuf>, Failure> {
    let bytes = target.manifest().content_bytes();
    let bar = progress::bytes(session.terminal.draws_progress(), "checking", bytes);
    let watched = ProgressBar::clone(&bar);
    let checking = tokio::task::spawn_blocking(move || target.finish(&watched));
    let checked = checking.await.expect("invariant: reading files does not panic");
    Ok(checked?)
}

impl Download {
    /// Asks for all of it, again if the connection breaks off, and takes what comes first.
    async fn begin(&mut self, session: &mut Session<'_>) -> Result<FetchHead, Failure> {
        let mut tries = Tries::default();
        loop {
            let status = match self.open(0).await {
                Ok((head, first)) => {
                    self.first = Some(first);
                    return Ok(head);
                }
                Err(status) => status,
            };
            let Some((why, pause)) = passing(&status).zip(tries.after(1)) else {
                return Err(self.client.refusal(status));
            };
            if tries.is_first() {
                session.notice(&format!("note: {why}; trying again"))?;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks for the chunks from a position on: what is being sent, and the rest of the stream.
    async fn open(&self, from: usize) -> Result<(FetchHead, Streaming<FetchResponse>), tonic::Status> {
        let which = Some(Which::Revision(self.revision.revision));
        let selector = RevisionSelector { channel: self.revision.channel.clone(), which };
        let from_chunk = u32::try_from(from).unwrap_or(u32::MAX);
        let request = FetchRequest { selector: Some(selector), from_chunk };
        let mut stream = patiently(self.client.content_unhurried().fetch(request)).await?;
        match next(&mut stream).await? {
            Some(Piece::Head(head)) => Ok((head, stream)),
            Some(Piece::Frame(_)) | None => {
                Err(tonic::Status::data_loss("the answer does not start with what it is"))
            }
        }
    }

    /// Fetches all that the target misses; a connection that breaks off is taken up again.
    async fn run(&mut self, session: &mut Session<'_>, mut target: Target) -> Result<Target, Failure> {
        let bar = progress::bytes(session.terminal.draws_progress(), "fetching", target.missing());
        let mut tries = Tries::default();
        while let Some(run) = target.next_run() {
            let Err(failure) = self.fetch(&mut target, run, &bar).await else { continue };
            let why = if let Failure::Status { status, .. } = &failure { passing(status) } else { None };
            let Some(why) = why else { return Err(failure) };
            let Some(pause) = tries.after(target.missing()) else {
                drop(bar);
                session.notice("What was fetched is kept; the same command goes on from there.")?;
                return Err(self.client.refusal(tonic::Status::unavailable(why)));
            };
            if tries.is_first() {
                bar.suspend(|| session.notice(&format!("note: {why}; trying again")))?;
            }
            tokio::time::sleep(pause).await;
        }
        Ok(target)
    }

    async fn fetch(
        &mut self,
        target: &mut Target,
        run: std::ops::Range<usize>,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let client = self.client.clone();
        let refusal = |status| client.refusal(status);
        let mut stream = match self.first.take().filter(|_| run.start == 0) {
            Some(first) => first,
            None => {
                let (head, stream) = self.open(run.start).await.map_err(refusal)?;
                if head.revision.map(|it| it.manifest) != Some(self.revision.manifest.clone()) {
                    return Err(Failure::Answer(
                        "the revision changed while it was being fetched".to_owned(),
                    ));
                }
                stream
            }
        };
        for position in run {
            let frame = match next(&mut stream).await.map_err(refusal)? {
                Some(Piece::Frame(frame)) => frame,
                Some(Piece::Head(_)) | None => {
                    return Err(refusal(tonic::Status::unavailable(
                        "the server ended before the content did",
                    )));
                }
            };
            let bytes = target.manifest().chunks()[position].bytes;
            let raw = codec::frame::decompress(&frame, usize::try_from(bytes).unwrap_or_default())
                .map_err(|_| TargetError::Chunk(position))?;
            target.put(position, &raw)?;
            self.fetched += u64::try_from(frame.len()).unwrap_or_default();
            bar.inc(u64::from(bytes));
        }
        Ok(())
    }
}

async fn next(stream: &mut Streaming<FetchResponse>) -> Result<Option<Piece>, tonic::Status> {
    match tokio::time::timeout(STALL, stream.message()).await {
        Ok(message) => Ok(message?.and_then(|message| message.piece)),
        Err(_) => Err(tonic::Status::deadline_exceeded(format!(
            "the server sent nothing for {} s",
            STALL.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_64_hexadecimal_digits_or_base64() {
        let digest = Digest::of(b"x");
        assert_eq!(parse_digest(&digest.to_string()), Ok(digest));
        assert_eq!(parse_digest(&BASE64_STANDARD.encode(digest.0)), Ok(digest));
        let long = BASE64_STANDARD.encode([7; 33]);
        for text in ["", "7bb9", &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32), &long, &"A".repeat(44)]
        {
            assert!(parse_digest(text).is_err(), "{text}");
        }
    }
}
