//! What heartbeats say of content: the state of each channel, and the wish for a full download.

use domain::Revision;
use domain::content::{
    ChannelName, ContentRevision, ContentStatus, DownloadWish, MAX_REPORTED_CHANNELS, SourceBytes,
};

use super::{MAX_REASON_BYTES, item_state, read_item_state};
use crate::DecodeError;
use crate::agent::v1;

/// The state of a channel as heartbeats carry it, its reason cut to its last `room` bytes: the end names the
/// cause.
#[must_use]
pub fn content_status(status: &ContentStatus, room: usize) -> v1::ContentStatus {
    let mut from = status.reason.len().saturating_sub(room.min(MAX_REASON_BYTES));
    while !status.reason.is_char_boundary(from) {
        from += 1;
    }
    v1::ContentStatus {
        channel: status.channel.to_string(),
        active: status.active.0,
        wanted: status.wanted.0,
        revision: status.revision.0,
        state: item_state(status.state).into(),
        percent: status.percent.into(),
        patch_bytes: status.bytes.patch,
        chunk_bytes: status.bytes.chunk,
        full_bytes: status.bytes.full,
        held_bytes: status.bytes.held,
        reason: status.reason[from..].to_owned(),
    }
}

/// Reads the state of a channel.
///
/// # Errors
/// [`DecodeError`] if the channel's name is none or the reason is too long.
pub fn read_content_status(status: v1::ContentStatus) -> Result<ContentStatus, DecodeError> {
    check_one(&status)?;
    Ok(ContentStatus {
        channel: channel(&status.channel)?,
        active: ContentRevision(status.active),
        wanted: ContentRevision(status.wanted),
        revision: Revision(status.revision),
        state: read_item_state(status.state),
        percent: u8::try_from(status.percent).unwrap_or(u8::MAX).min(100),
        bytes: SourceBytes {
            patch: status.patch_bytes,
            chunk: status.chunk_bytes,
            full: status.full_bytes,
            held: status.held_bytes,
        },
        reason: status.reason.into(),
    })
}

fn channel(name: &str) -> Result<ChannelName, DecodeError> {
    ChannelName::new(name).map_err(|error| DecodeError::field("channel", error))
}

fn check_one(status: &v1::ContentStatus) -> Result<(), DecodeError> {
    channel(&status.channel)?;
    if status.reason.len() > MAX_REASON_BYTES {
        return Err(DecodeError::field("reason", format!("is longer than {MAX_REASON_BYTES} bytes")));
    }
    Ok(())
}

/// Checks the channels of a status. Each may be named once only: it counts once.
pub(super) fn check(content: &[v1::ContentStatus]) -> Result<(), DecodeError> {
    if content.len() > MAX_REPORTED_CHANNELS {
        return Err(DecodeError::field("content", format!("has more than {MAX_REPORTED_CHANNELS} entries")));
    }
    content.iter().try_for_each(check_one)?;
    if content.is_sorted_by(|one, next| one.channel < next.channel) {
        Ok(())
    } else {
        Err(DecodeError::field("content", "is not ordered by channel, each of them once"))
    }
}

/// A wish as heartbeats carry it.
#[must_use]
pub fn download_wish(wish: DownloadWish) -> v1::DownloadWish {
    match wish {
        DownloadWish::Nothing => v1::DownloadWish::Unspecified,
        DownloadWish::Wanted => v1::DownloadWish::Wanted,
        DownloadWish::Held => v1::DownloadWish::Held,
        DownloadWish::Done => v1::DownloadWish::Done,
    }
}

/// Reads a wish; one that this version does not know counts as none.
#[must_use]
pub fn read_download_wish(wish: i32) -> DownloadWish {
    match v1::DownloadWish::try_from(wish).unwrap_or_default() {
        v1::DownloadWish::Unspecified => DownloadWish::Nothing,
        v1::DownloadWish::Wanted => DownloadWish::Wanted,
        v1::DownloadWish::Held => DownloadWish::Held,
        v1::DownloadWish::Done => DownloadWish::Done,
    }
}

#[cfg(test)]
mod tests {
    use domain::agent::ItemState;
    use prost::Message as _;

    use super::*;
    use crate::agent::v1::{Heartbeat, ItemStatus, StatusReport};
    use crate::heartbeat::{MAX_HEARTBEAT_BYTES, MAX_REASONS_BYTES, read};

    fn status(channel: &str) -> ContentStatus {
        ContentStatus {
            channel: ChannelName::new(channel).unwrap(),
            active: ContentRevision(3),
            wanted: ContentRevision(4),
            revision: Revision(77),
            state: ItemState::Received,
            percent: 40,
            bytes: SourceBytes { patch: 1, chunk: 2, full: 3, held: 4 },
            reason: "".into(),
        }
    }

    #[test]
    fn states_round_trip() {
        let all = [
            ItemState::Offered,
            ItemState::Received,
            ItemState::Verified,
            ItemState::Applied,
            ItemState::Healthy,
            ItemState::Failed,
        ];
        for state in all {
            let status = ContentStatus { state, reason: "why".into(), ..status("definitions/ips") };
            assert_eq!(read_content_status(content_status(&status, 100)).unwrap(), status);
        }
        for wish in [DownloadWish::Nothing, DownloadWish::Wanted, DownloadWish::Held, DownloadWish::Done] {
            assert_eq!(read_download_wish(download_wish(wish).into()), wish);
        }
        assert_eq!(read_download_wish(99), DownloadWish::Nothing);
        let odd = v1::ContentStatus { channel: "a".into(), percent: 1_000, ..v1::ContentStatus::default() };
        assert_eq!(read_content_status(odd).unwrap().percent, 100);
    }

    #[test]
    fn of_a_long_reason_the_end_is_told() {
        let reason = format!("{}é: no space left", "x".repeat(5_000));
        let long = ContentStatus { reason: reason.into(), ..status("a") };
        let told = content_status(&long, usize::MAX).reason;
        assert!(told.len() == MAX_REASON_BYTES && told.ends_with("é: no space left"), "{told}");
        assert_eq!(content_status(&long, 16).reason, ": no space left", "no half characters");
    }

    #[track_caller]
    fn check_refused(content: Vec<v1::ContentStatus>, expected: &str) {
        let heartbeat = Heartbeat {
            status: Some(StatusReport { content, ..StatusReport::default() }),
            ..Heartbeat::default()
        };
        assert_eq!(read(&heartbeat.encode_to_vec()).unwrap_err().to_string(), expected);
    }

    #[test]
    fn bounds_hold() {
        let of = |channel: &str| content_status(&status(channel), 0);
        let many = (0..129).map(|n| of(&format!("c{n:03}")));
        check_refused(many.collect(), "field content has more than 128 entries");
        let order = "field content is not ordered by channel, each of them once";
        check_refused(vec![of("b"), of("a")], order);
        check_refused(vec![of("a"), of("a")], order);
        let nameless = v1::ContentStatus::default();
        check_refused(vec![nameless], "field channel \"\" in it must not be empty");
        let wordy = v1::ContentStatus { reason: "x".repeat(1025), ..of("a") };
        check_refused(vec![wordy], "field reason is longer than 1024 bytes");
    }

    #[test]
    fn the_fullest_status_fits() {
        let name = |n: usize| format!("{n:064}");
        let item = |n| ItemStatus {
            kind: name(n),
            state: v1::ItemState::Failed.into(),
            revision: u64::MAX,
            reason: String::new(),
        };
        let content = |n| v1::ContentStatus {
            channel: [name(n), name(n), name(n), name(n)].join("/"),
            active: u32::MAX,
            wanted: u32::MAX,
            revision: u64::MAX,
            state: v1::ItemState::Failed.into(),
            percent: 100,
            patch_bytes: u64::MAX,
            chunk_bytes: u64::MAX,
            full_bytes: u64::MAX,
            held_bytes: u64::MAX,
            reason: "x".repeat(MAX_REASONS_BYTES / MAX_REPORTED_CHANNELS),
        };
        let status = StatusReport {
            agent_version: "x".repeat(255),
            hostname: "x".repeat(255),
            last_refusal: "x".repeat(255),
            items: (0..domain::snapshot::MAX_POLICIES).map(item).collect(),
            content: (0..MAX_REPORTED_CHANNELS).map(content).collect(),
            ..StatusReport::default()
        };
        let bytes = Heartbeat { status: Some(status), ..Heartbeat::default() }.encode_to_vec();
        assert!(bytes.len() < MAX_HEARTBEAT_BYTES, "{}", bytes.len());
        assert!(read(&bytes).is_ok());
    }
}
