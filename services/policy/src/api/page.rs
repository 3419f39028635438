//! Pages of lists (AIP-158): at most so many items and so many bytes; the token is where the next one starts.

use prost::Message;
use tonic::Status;

use super::refuse;

/// Items of a page when the caller does not say.
const DEFAULT_ITEMS: usize = 100;
/// Most items of a page; a caller who asks for more gets this.
const MAX_ITEMS: usize = 1000;
/// Bytes after which a page ends early: documents are large, and clients take messages of 4 MiB by default.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Reads a page size.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is negative.
pub(super) fn size(asked: i32, default: usize, most: usize) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(asked) => Ok(asked.min(most)),
        Err(_) => Err(refuse::field("page_size", "must not be negative")),
    }
}

/// As [`size`] with the bounds of most lists.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is negative.
pub(super) fn usual_size(asked: i32) -> Result<usize, Status> {
    size(asked, DEFAULT_ITEMS, MAX_ITEMS)
}

/// Makes a page of what comes after the token. Items come in the order of their keys; the token is the key of
/// the last one. Returns the page, and the token of the next one (empty on the last page).
pub(super) fn page<T: Message>(items: impl Iterator<Item = (String, T)>, size: usize) -> (Vec<T>, String) {
    let mut page = Vec::new();
    let (mut bytes, mut last) = (0, String::new());
    for (key, item) in items {
        bytes += item.encoded_len();
        if page.len() == size || (bytes > MAX_BYTES && !page.is_empty()) {
            return (page, last);
        }
        page.push(item);
        last = key;
    }
    (page, String::new())
}

#[cfg(test)]
mod tests {
    use wire::api::v1::ChangeInfo;

    use super::*;

    #[test]
    fn sizes_have_defaults_and_bounds() {
        assert_eq!([0, 7, 5000].map(|asked| usual_size(asked).unwrap()), [100, 7, 1000]);
        assert_eq!(usual_size(-1).unwrap_err().message(), "must not be negative");
    }

    #[test]
    fn pages_end_by_number_and_by_size() {
        let item = |bytes: usize| ChangeInfo { message: "x".repeat(bytes), ..ChangeInfo::default() };
        let list = |sizes: &'static [usize]| sizes.iter().zip(0..).map(|(s, n)| (format!("k{n}"), item(*s)));
        let got = |sizes, size| {
            let (page, next) = page(list(sizes), size);
            (page.len(), next)
        };
        assert_eq!(got(&[1, 1, 1], 3), (3, String::new()));
        assert_eq!(got(&[1, 1, 1], 2), (2, "k1".to_owned()));
        assert_eq!(got(&[], 2), (0, String::new()));
        assert_eq!(got(&[3_000_000, 1], 9), (1, "k0".to_owned()));
        assert_eq!(got(&[1_500_000, 1_500_000], 9), (1, "k0".to_owned()));
    }
}
