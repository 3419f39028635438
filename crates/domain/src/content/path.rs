//! Paths of files in a content: relative, inside the tree, the same file on every system.

use std::fmt;

/// Longest path, in bytes: what file systems take beside the folder that an agent puts it in (Linux: 4,096 in
/// all, macOS: 1,024).
pub const MAX_PATH_BYTES: usize = 1024;
/// Longest name between two slashes, in bytes: what file systems take.
pub const MAX_NAME_BYTES: usize = 255;
/// Most names in a path: bounds what checking and creating folders costs.
pub const MAX_PATH_NAMES: usize = 64;

/// Why a text is not the path of a file in a content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilePathError {
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// Longer than [`MAX_PATH_BYTES`].
    #[error("is {0} bytes long; at most {MAX_PATH_BYTES} are allowed")]
    TooLong(usize),
    /// It starts at the root of a file system.
    #[error("starts with \"/\"; only paths inside the content are allowed")]
    Absolute,
    /// More than [`MAX_PATH_NAMES`].
    #[error("has {0} names between \"/\"; at most {MAX_PATH_NAMES} are allowed")]
    TooDeep(usize),
    /// Two slashes in a row, or one at the end.
    #[error("has an empty name: \"/\" must stand between two names")]
    EmptyName,
    /// A name that means another folder.
    #[error("has the name {0:?}, which means another folder")]
    Dots(&'static str),
    /// Longer than [`MAX_NAME_BYTES`].
    #[error("has a name of {0} bytes; at most {MAX_NAME_BYTES} are allowed")]
    NameTooLong(usize),
    /// A character that is not the same on every system, or that a terminal obeys.
    #[error(
        "has the character {character:?} at byte {at}; backslashes and control characters are not allowed"
    )]
    Character {
        /// The character.
        character: char,
        /// Where it stands.
        at: usize,
    },
}

/// Path of a file in a content: names joined by "/", relative to where the content lies.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Box<str>);

impl FilePath {
    /// Checks the text and wraps it.
    ///
    /// # Errors
    /// [`FilePathError`] names the first thing that is wrong.
    pub fn new(text: impl AsRef<str>) -> Result<Self, FilePathError> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(FilePathError::Empty);
        }
        if text.len() > MAX_PATH_BYTES {
            return Err(FilePathError::TooLong(text.len()));
        }
        if let Some((at, character)) = text.char_indices().find(|(_, c)| *c == '\\' || c.is_control()) {
            return Err(FilePathError::Character { character, at });
        }
        if text.starts_with('/') {
            return Err(FilePathError::Absolute);
        }
        let names = text.split('/').count();
        if names > MAX_PATH_NAMES {
            return Err(FilePathError::TooDeep(names));
        }
        text.split('/').try_for_each(check_name)?;
        Ok(Self(text.into()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names it is made of; the last is the file's.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The folders above the file, outermost first: "a" and "a/b" for "a/b/c".
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

fn check_name(name: &str) -> Result<(), FilePathError> {
    match name {
        "" => Err(FilePathError::EmptyName),
        "." => Err(FilePathError::Dots(".")),
        ".." => Err(FilePathError::Dots("..")),
        name if name.len() > MAX_NAME_BYTES => Err(FilePathError::NameTooLong(name.len())),
        _ => Ok(()),
    }
}

/// What two names are compared by where case makes no difference: Unicode's upper case and then its lower case,
/// so that "ß", "SS" and "ss" are one, and the three sigmas are one.
#[must_use]
pub fn folded(text: &str) -> String {
    text.to_uppercase().to_lowercase()
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilePath({})", self.0)
    }
}

impl AsRef<str> for FilePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), &str>) {
        let got = FilePath::new(text).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn paths_stay_inside_and_mean_the_same_everywhere() {
        check("data.json", Ok(()));
        check("a/b c/Größe…/.hidden", Ok(()));
        check("...", Ok(()));
        check(&["n"; MAX_PATH_NAMES].join("/"), Ok(()));
        check(&"n".repeat(MAX_NAME_BYTES), Ok(()));

        check("", Err("is empty"));
        check("/etc/passwd", Err("starts with \"/\"; only paths inside the content are allowed"));
        check("a//b", Err("has an empty name: \"/\" must stand between two names"));
        check("a/", Err("has an empty name: \"/\" must stand between two names"));
        check(".", Err("has the name \".\", which means another folder"));
        check("..", Err("has the name \"..\", which means another folder"));
        check("a/../b", Err("has the name \"..\", which means another folder"));
        check("a/./b", Err("has the name \".\", which means another folder"));
        let rest = "backslashes and control characters are not allowed";
        check("..\\b", Err(&format!("has the character '\\\\' at byte 2; {rest}")));
        check("a\0b", Err(&format!("has the character '\\0' at byte 1; {rest}")));
        check("ä\u{1b}[2J", Err(&format!("has the character '\\u{{1b}}' at byte 2; {rest}")));
        check("a\u{85}", Err(&format!("has the character '\\u{{85}}' at byte 1; {rest}")));
        check(&"n".repeat(256), Err("has a name of 256 bytes; at most 255 are allowed"));
        check(&"n".repeat(10_240), Err("is 10240 bytes long; at most 1024 are allowed"));
        check(&["n"; 65].join("/"), Err("has 65 names between \"/\"; at most 64 are allowed"));
    }

    #[test]
    fn folders_are_the_paths_above() {
        let folders = |text| FilePath::new(text).unwrap().folders().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(folders("a/b/c"), ["a", "a/b"]);
        assert!(folders("a").is_empty());
    }

    #[test]
    fn case_is_folded_as_unicode_has_it() {
        for (a, b) in [("Straße", "STRASSE"), ("ΑΣ", "ας"), ("ÀB", "àb"), ("ſ", "s"), ("\u{212a}", "k")]
        {
            assert_eq!(folded(a), folded(b), "{a} {b}");
        }
        assert_ne!(folded("e"), folded("é"));
    }
}
