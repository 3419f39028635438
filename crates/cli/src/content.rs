//! Content on its way between files and a server: what is read to be pushed, what is written when fetched.

pub(crate) mod cut;
pub(crate) mod progress;
pub(crate) mod source;
pub(crate) mod target;
pub(crate) mod tree;
pub(crate) mod tries;
pub(crate) mod upload;
