//! Everything that turns bytes into values and back: protobuf, subjects, envelopes, join tokens,
//! manifests.
//!
//! This is the only crate that parses what came over a wire and the only one that builds or reads
//! subjects. A value that leaves it is valid; nothing that enters it can make it panic.
#![warn(missing_docs)]

/// Messages between agents and services.
pub mod agent {
    /// Version 1.
    #[allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        unreachable_pub,
        reason = "generated from proto/"
    )]
    pub mod v1 {
        include!("gen/muster.agent.v1.rs");
    }
}

/// Messages that the control plane keeps.
pub mod store {
    /// Version 1.
    #[allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        unreachable_pub,
        reason = "generated from proto/"
    )]
    pub mod v1 {
        include!("gen/muster.store.v1.rs");
    }
}

/// The API for operators.
#[cfg(feature = "api")]
pub mod api {
    /// Version 1.
    #[allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        unreachable_pub,
        reason = "generated from proto/"
    )]
    pub mod v1 {
        include!("gen/muster.api.v1.rs");
    }
}

pub mod access;
pub mod api_token;
mod armour;
pub mod audit;
pub mod broker;
pub mod catalog;
pub mod content;
pub mod document;
#[cfg(feature = "api")]
pub mod enrol;
pub mod envelope;
pub mod heartbeat;
pub mod join;
#[cfg(feature = "api")]
pub mod json;
pub mod jwt;
#[cfg(feature = "api")]
pub mod manifest;
pub mod offline;
pub mod piece;
pub mod registry;
pub mod root;
pub mod sign;
pub mod size;
pub mod snapshot;
pub mod subject;
#[cfg(feature = "api")]
pub mod time;
pub mod trace;

/// File descriptors of everything in `proto/`, for gRPC reflection and for the JSON form of messages.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");

/// Why bytes that arrived are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the bound for this kind of message; nothing was parsed.
    #[error("is {size} bytes long; at most {limit} are accepted")]
    TooLarge {
        /// What arrived.
        size: usize,
        /// What is accepted.
        limit: usize,
    },
    /// Not protobuf.
    #[error("is not a valid protobuf message")]
    Protobuf(#[from] prost::DecodeError),
    /// A field breaks its rule.
    #[error("field {field} {problem}")]
    Field {
        /// The field as named in `proto/`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl DecodeError {
    pub(crate) fn field(field: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Field { field, problem: problem.to_string() }
    }
}

/// Decodes a message after checking its size.
///
/// # Errors
/// [`DecodeError::TooLarge`] before anything is parsed, [`DecodeError::Protobuf`] after.
pub fn decode<M: prost::Message + Default>(bytes: &[u8], limit: usize) -> Result<M, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { size: bytes.len(), limit });
    }
    Ok(M::decode(bytes)?)
}

/// As [`decode`]; byte fields of the message share the memory of `bytes` and are not copied.
///
/// # Errors
/// As [`decode`].
pub fn decode_shared<M: prost::Message + Default>(
    bytes: &bytes::Bytes,
    limit: usize,
) -> Result<M, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { size: bytes.len(), limit });
    }
    Ok(M::decode(bytes.clone())?)
}

/// Bytes of a message, to be sent.
#[must_use]
pub fn encode<M: prost::Message>(message: &M) -> bytes::Bytes {
    message.encode_to_vec().into()
}
