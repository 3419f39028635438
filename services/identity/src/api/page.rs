//! How long the pages of lists are.

use tonic::Status;

use crate::status;

/// Entries of a page when the caller names no number.
const DEFAULT: usize = 100;

/// Most entries of a page: about 200 bytes each.
const MAX: usize = 1000;

/// How many entries a page has for whom asks for so many; 0 asks for as many as are usual.
pub(super) fn size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT),
        Ok(size) => Ok(size.min(MAX)),
        Err(_) => Err(status::invalid("page_size", "must not be negative")),
    }
}
