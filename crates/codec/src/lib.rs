//! How content becomes bytes that travel, and back: chunks, compression, deltas. Bytes in, bytes out; who
//! reads and writes them is the caller's business.
#![warn(missing_docs)]
