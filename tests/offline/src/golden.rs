//! Files that hold what the code should produce; `UPDATE=1` rewrites them and review reads the diff.

use std::path::Path;

use crate::tree::root;

/// Whether this run rewrites golden files instead of comparing with them.
#[must_use]
pub fn updating() -> bool {
    std::env::var_os("UPDATE").is_some_and(|value| value != "0" && !value.is_empty())
}

/// Compares `actual` with the file at `path` (from the root of the repository), or writes it there.
///
/// # Panics
/// When they differ, naming the first line that does, and when the file cannot be written.
pub fn compare(path: &str, actual: &str) {
    let file = root().join(path);
    if updating() {
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new("."))).expect("the folder can be made");
        std::fs::write(&file, actual).expect("the golden file can be written");
        return;
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    let difference = first_difference(&expected, actual);
    assert!(
        difference.is_none(),
        "{path} is not what the code gives; UPDATE=1 rewrites it.\n{}",
        difference.unwrap_or_default()
    );
}

/// The first line in which two texts differ, in words; nothing when they are the same.
fn first_difference(expected: &str, actual: &str) -> Option<String> {
    if expected == actual {
        return None;
    }
    let (mut old, mut new) = (expected.lines(), actual.lines());
    let mut line = 1;
    loop {
        match (old.next(), new.next()) {
            (None, None) => return Some("they differ in how lines end".to_owned()),
            (a, b) if a == b => line += 1,
            (a, b) => {
                return Some(format!(
                    "line {line}\n  file: {}\n  code: {}",
                    a.unwrap_or("(end)"),
                    b.unwrap_or("(end)")
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_different_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n").unwrap(), "line 2\n  file: b\n  code: c");
        assert_eq!(first_difference("a\n", "a\nb\n").unwrap(), "line 2\n  file: (end)\n  code: b");
        assert_eq!(first_difference("a\n", "a").unwrap(), "they differ in how lines end");
    }
}
