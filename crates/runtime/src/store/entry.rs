//! One message of the log: one state of one object, and the change it belongs to.

use bytes::Bytes;
use domain::Timestamp;
use prost::Message;
use wire::store::v1 as proto;
use wire::subject::StoreKey;
use wire::trace::{TRACEPARENT, TraceParent};

use super::MAX_ENTRIES;
use crate::nats::{BatchMessage, Headers, StreamMessage, escape, unescape};
use crate::telemetry::spans;

const CHANGE: &str = "Muster-Change";
const INDEX: &str = "Muster-Change-Index";
const COUNT: &str = "Muster-Change-Count";
const ACTOR: &str = "Muster-Actor";
const MESSAGE: &str = "Muster-Message";
const TIME: &str = "Muster-Time";
const TRACE: &str = "Muster-Trace-Id";
const REPAIRS: &str = "Muster-Repairs";

/// Longest actor or message that is kept, in bytes; longer ones are cut. Headers count against the size of a
/// message, and each entry carries them.
const MAX_TEXT_BYTES: usize = 1024;

/// Who changed the catalogue, when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeInfo {
    /// Random; tells changes apart. At most 64 characters of `[a-z0-9_-]` ([`crate::ids::random_id`]).
    pub id: domain::TokenId,
    /// Who: a user name or a service.
    pub actor: String,
    /// Why; may be empty.
    pub message: String,
    /// When it was decided.
    pub time: Timestamp,
    /// W3C trace id of the request; `None` if it was not traced.
    pub trace_id: Option<[u8; 16]>,
}

/// A new state of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The object.
    pub key: StoreKey,
    /// Its state: an encoded `muster.store.v1.Entry`.
    pub body: Bytes,
}

/// A state of an object as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// The object.
    pub key: StoreKey,
    /// Its state: an encoded `muster.store.v1.Entry`.
    pub body: Bytes,
    /// Place in the log.
    pub sequence: u64,
    /// The change.
    pub change: ChangeInfo,
    /// Place in the change, from 0.
    pub index: u32,
    /// Entries of the change.
    pub count: u32,
    /// If this restates what was before a torn change: the sequence of the torn entry.
    pub repairs: Option<u64>,
    /// The span that stored it; `None` if it was not traced.
    pub place: Option<TraceParent>,
}

/// What a message of the log turns out to be.
pub(super) enum Read {
    Entry(Box<StoredEntry>),
    /// Something else that got into the stream.
    Foreign {
        sequence: u64,
    },
}

impl Read {
    pub(super) fn entry(self) -> Option<StoredEntry> {
        match self {
            Self::Entry(entry) => Some(*entry),
            Self::Foreign { .. } => None,
        }
    }
}

pub(super) fn read(message: StreamMessage) -> Read {
    let sequence = message.sequence;
    match parse(&message) {
        Some(entry) => Read::Entry(Box::new(entry)),
        None => {
            tracing::error!(
                sequence,
                subject = message.subject,
                "the log has a message that is no entry: ignored"
            );
            Read::Foreign { sequence }
        }
    }
}

fn parse(message: &StreamMessage) -> Option<StoredEntry> {
    let headers = &message.headers;
    let small = |name| u32::try_from(headers.get_number(name)?).ok();
    let (index, count) = (small(INDEX)?, small(COUNT)?);
    let in_bounds = index < count && count as usize <= MAX_ENTRIES && u64::from(index) < message.sequence;
    let change = ChangeInfo {
        id: headers.get(CHANGE)?.parse().ok()?,
        actor: unescape(headers.get(ACTOR).unwrap_or_default()),
        message: unescape(headers.get(MESSAGE).unwrap_or_default()),
        time: Timestamp(headers.get_number(TIME)?),
        trace_id: headers.get(TRACE).and_then(trace_id),
    };
    in_bounds.then_some(StoredEntry {
        key: StoreKey::parse(&message.subject)?,
        body: message.payload.clone(),
        sequence: message.sequence,
        change,
        index,
        count,
        repairs: headers.get_number(REPAIRS),
        place: headers.place(),
    })
}

fn trace_id(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// The state "deleted".
pub(super) fn tombstone() -> Bytes {
    let object = Some(proto::entry::Object::Tombstone(proto::Tombstone::default()));
    proto::Entry { object }.encode_to_vec().into()
}

/// The messages of a change.
pub(super) struct Batch(Vec<BatchMessage>);

impl Batch {
    pub(super) fn of(info: &ChangeInfo, entries: Vec<Entry>) -> Self {
        Self::build(info, entries.into_iter().map(|entry| (entry, None)).collect())
    }

    /// Restates the entries; each with the sequence of the torn entry that it undoes.
    pub(super) fn repairing(torn: &StoredEntry, entries: Vec<(Entry, u64)>, now: Timestamp) -> Self {
        let id = crate::ids::random_id().parse().expect("invariant: a random id is an id");
        let message = format!("undo of the incomplete change {}", torn.change.id);
        let info = ChangeInfo { id, actor: "muster".to_owned(), message, time: now, trace_id: None };
        Self::build(&info, entries.into_iter().map(|(entry, sequence)| (entry, Some(sequence))).collect())
    }

    pub(super) fn messages(&self) -> Vec<BatchMessage> {
        self.0.clone()
    }

    fn build(info: &ChangeInfo, entries: Vec<(Entry, Option<u64>)>) -> Self {
        let count = entries.len() as u64;
        let messages = entries.into_iter().zip(0..).map(|((entry, repairs), index)| {
            let headers = headers(info, index, count);
            let headers = repairs.map_or(headers.clone(), |sequence| headers.number(REPAIRS, sequence));
            BatchMessage { subject: entry.key.subject(), headers, payload: entry.body }
        });
        Self(messages.collect())
    }
}

fn headers(info: &ChangeInfo, index: u64, count: u64) -> Headers {
    let text = |headers: Headers, name, value: &str| {
        headers.text(name, &escape(cut(value))).expect("invariant: escaped text has no line break")
    };
    let headers = Headers::new().number(INDEX, index).number(COUNT, count).number(TIME, info.time.0);
    let headers = text(headers, CHANGE, info.id.as_str());
    let headers = text(headers, ACTOR, &info.actor);
    let headers = text(headers, MESSAGE, &info.message);
    let headers = match spans::current() {
        Some(place) => text(headers, TRACEPARENT, &place.to_string()),
        None => headers,
    };
    match info.trace_id {
        Some(trace_id) => text(headers, TRACE, &format!("{:032x}", u128::from_be_bytes(trace_id))),
        None => headers,
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(message: BatchMessage, sequence: u64) -> StreamMessage {
        StreamMessage {
            subject: message.subject.to_string(),
            sequence,
            time: Timestamp(9),
            headers: message.headers,
            payload: message.payload,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let info = ChangeInfo {
            id: "c1".parse().unwrap(),
            actor: "Zoë\r\nX: y".to_owned(),
            message: "100 %\n".to_owned(),
            time: Timestamp(5),
            trace_id: Some([7; 16]),
        };
        let entry = Entry { key: StoreKey::parse("store.group.web").unwrap(), body: tombstone() };
        let batch = Batch::of(&info, vec![entry.clone(), entry.clone()]);
        let messages = batch.messages();
        let read = read(stored(messages[1].clone(), 12)).entry().unwrap();
        let expected = StoredEntry {
            key: entry.key,
            body: entry.body,
            sequence: 12,
            change: info,
            index: 1,
            count: 2,
            repairs: None,
            place: None,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_no_entry_is_foreign() {
        let entry = Entry { key: StoreKey::Epoch, body: Bytes::new() };
        let info = ChangeInfo {
            id: "c1".parse().unwrap(),
            actor: "a".repeat(5000),
            message: String::new(),
            time: Timestamp(5),
            trace_id: None,
        };
        let good = Batch::of(&info, vec![entry]).messages().remove(0);
        assert_eq!(read(stored(good.clone(), 1)).entry().unwrap().change.actor.len(), MAX_TEXT_BYTES);
        let foreign = |change: fn(&mut StreamMessage)| {
            let mut message = stored(good.clone(), 1);
            change(&mut message);
            assert!(read(message).entry().is_none());
        };
        foreign(|message| message.headers = Headers::new());
        foreign(|message| message.subject = "store.other.x".to_owned());
        foreign(|message| message.headers = message.headers.clone().number(INDEX, 1));
        foreign(|message| message.headers = message.headers.clone().number(COUNT, u64::MAX));
        foreign(|message| message.headers = message.headers.clone().number(COUNT, 9).number(INDEX, 8));
    }
}
