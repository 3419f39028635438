//! How content becomes bytes that travel, and back: chunks, compression, deltas. Bytes in, bytes out; who
//! reads and writes them is the caller's business.
//!
//! All of it is synchronous and some of it keeps a core busy for seconds: call it from a thread that may block.
#![warn(missing_docs)]

mod align;
pub mod chunk;
pub mod delta;
pub mod frame;
#[cfg(test)]
mod made;
pub mod part;
pub mod source;

pub use source::Source;
