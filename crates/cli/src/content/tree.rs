//! The files that a push takes: a file or a folder, looked through before anything is read or sent.

use std::fs::{self, File, FileType};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use domain::content::manifest::{MAX_CONTENT_BYTES, MAX_FILES};
use domain::content::path::MAX_PATH_NAMES;
use domain::content::{FilePath, FilePathError};
use wire::size;

use crate::failure::counted;

/// Most problems that are told: enough to see the pattern, little enough to read.
const MAX_TOLD: usize = 20;

/// Why something below the path cannot be part of a content, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    #[error("is a symbolic link: put what it points to in its place, or leave it out")]
    SymbolicLink,
    #[error("is a {0}, and content is made of files: leave it out")]
    Special(&'static str),
    #[error("cannot be read ({0}): make it readable, or leave it out")]
    Unreadable(io::Error),
    #[error("has a name that is not UTF-8: rename it")]
    Encoding,
    #[error("cannot have this path in a content: it {0}; rename it")]
    Name(FilePathError),
    #[error("lies more than {MAX_PATH_NAMES} folders deep: move it up")]
    TooDeep,
}

/// Why a path cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("cannot read {}", place.display())]
    Root { place: PathBuf, source: io::Error },
    #[error("{} cannot be pushed", place.display())]
    Obstacles {
        place: PathBuf,
        /// At most [`MAX_TOLD`].
        told: Vec<(PathBuf, Obstacle)>,
        more: usize,
    },
    #[error("{} holds no file: a content has at least one", .0.display())]
    Empty(PathBuf),
    #[error("{} holds more than {MAX_FILES} files, the most of one content: pack them into one file", .0.display())]
    TooManyFiles(PathBuf),
    #[error("{} holds more than {}, the most of one content", .0.display(), size::format(MAX_CONTENT_BYTES))]
    TooLong(PathBuf),
}

impl TreeError {
    /// One line for each thing that stands in the way.
    pub(crate) fn details(&self) -> Vec<String> {
        let Self::Obstacles { told, more, .. } = self else { return Vec::new() };
        let line = |(place, obstacle): &(PathBuf, Obstacle)| format!("{} {obstacle}", place.display());
        let rest = (*more > 0).then(|| format!("... and {more} more"));
        told.iter().map(line).chain(rest).collect()
    }
}

/// One file to push.
#[derive(Debug, Clone)]
pub(crate) struct TreeFile {
    /// Its path in the content.
    pub(crate) path: FilePath,
    /// Where it lies.
    pub(crate) place: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) executable: bool,
}

/// The files of a content, ordered by path.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) files: Vec<TreeFile>,
    pub(crate) bytes: u64,
    /// Folders without anything in them: a content has none.
    pub(crate) empty_folders: usize,
}

impl Tree {
    /// Looks through a file or a folder. The path itself may be a symbolic link: whoever typed it means what it
    /// points to.
    pub(crate) fn walk(root: &Path) -> Result<Self, TreeError> {
        let fail = |source| TreeError::Root { place: root.to_owned(), source };
        let metadata = fs::metadata(root).map_err(fail)?;
        let mut walk = Walk::default();
        if metadata.is_dir() {
            walk.folder(root, "", 1)?;
        } else {
            let name = root.file_name().and_then(|name| name.to_str());
            walk.entry(root, name, metadata.file_type());
        }
        walk.finish(root)
    }

    /// Where each file starts in the content.
    pub(crate) fn starts(&self) -> Vec<u64> {
        let ends = self.files.iter().scan(0, |end, file| {
            let start = *end;
            *end += file.bytes;
            Some(start)
        });
        ends.collect()
    }
}

#[derive(Default)]
struct Walk {
    files: Vec<TreeFile>,
    empty_folders: usize,
    told: Vec<(PathBuf, Obstacle)>,
    obstacles: usize,
    overflow: bool,
}

impl Walk {
    fn tell(&mut self, place: &Path, obstacle: Obstacle) {
        self.obstacles += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push((place.to_owned(), obstacle));
        }
    }

    /// Everything in a folder, `path` being its place in the content.
    fn folder(&mut self, place: &Path, path: &str, depth: usize) -> Result<(), TreeError> {
        let entries = fs::read_dir(place).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.tell(place, Obstacle::Unreadable(error));
                return Ok(());
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        self.empty_folders += usize::from(entries.is_empty() && depth > 1);
        for entry in entries {
            if self.overflow {
                break;
            }
            let (place, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else {
                self.tell(&place, Obstacle::Encoding);
                continue;
            };
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            match entry.file_type() {
                Err(error) => self.tell(&place, Obstacle::Unreadable(error)),
                Ok(kind) if kind.is_dir() && depth >= MAX_PATH_NAMES => self.tell(&place, Obstacle::TooDeep),
                Ok(kind) if kind.is_dir() => self.folder(&place, &path, depth + 1)?,
                Ok(kind) => self.entry(&place, Some(&path), kind),
            }
        }
        Ok(())
    }

    /// Anything but a folder.
    fn entry(&mut self, place: &Path, path: Option<&str>, kind: FileType) {
        match inspect(place, path, kind) {
            Err(obstacle) => self.tell(place, obstacle),
            Ok(_) if self.files.len() == MAX_FILES => self.overflow = true,
            Ok(file) => self.files.push(file),
        }
    }

    fn finish(mut self, root: &Path) -> Result<Tree, TreeError> {
        let place = root.to_owned();
        if self.obstacles > 0 {
            let more = self.obstacles - self.told.len();
            return Err(TreeError::Obstacles { place, told: self.told, more });
        }
        if self.overflow {
            return Err(TreeError::TooManyFiles(place));
        }
        if self.files.is_empty() {
            return Err(TreeError::Empty(place));
        }
        let bytes = self.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
        if bytes > MAX_CONTENT_BYTES {
            return Err(TreeError::TooLong(place));
        }
        // A folder sorts where its name does; its files stand where the whole path does.
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Tree { files: self.files, bytes, empty_folders: self.empty_folders })
    }
}

fn inspect(place: &Path, path: Option<&str>, kind: FileType) -> Result<TreeFile, Obstacle> {
    if kind.is_symlink() {
        return Err(Obstacle::SymbolicLink);
    }
    if let Some(what) = special(kind) {
        return Err(Obstacle::Special(what));
    }
    let path = FilePath::new(path.ok_or(Obstacle::Encoding)?).map_err(Obstacle::Name)?;
    // Opened, because only that tells whether it will be readable when its turn comes.
    let metadata = File::open(place).and_then(|file| file.metadata()).map_err(Obstacle::Unreadable)?;
    let executable = metadata.mode() & 0o100 != 0;
    Ok(TreeFile { path, place: place.to_owned(), bytes: metadata.len(), executable })
}

fn special(kind: FileType) -> Option<&'static str> {
    if kind.is_fifo() {
        Some("pipe")
    } else if kind.is_socket() {
        Some("socket")
    } else if kind.is_block_device() || kind.is_char_device() {
        Some("device")
    } else if kind.is_file() {
        None
    } else {
        Some("thing that is no file")
    }
}

/// "3 empty folders are not part of the content".
pub(crate) fn note_on_empty_folders(count: usize) -> Option<String> {
    let text = counted(count, "empty folder is", "empty folders are");
    (count > 0).then(|| format!("note: {text} not part of the content"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("rules");
        fs::create_dir(&root).unwrap();
        (temporary, root)
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn files_stand_in_order_of_their_whole_path() {
        let (_temporary, root) = folder();
        for path in ["a/z", "a-b", "a.c", "B", ".hidden", "a/b/c"] {
            write(&root.join(path), path);
        }
        fs::create_dir_all(root.join("none/at/all")).unwrap();
        fs::set_permissions(root.join("B"), fs::Permissions::from_mode(0o755)).unwrap();
        let tree = Tree::walk(&root).unwrap();
        assert_eq!(paths(&tree), [".hidden", "B", "a-b", "a.c", "a/b/c", "a/z"]);
        assert_eq!(tree.starts(), [0, 7, 8, 11, 14, 19]);
        assert_eq!((tree.bytes, tree.empty_folders), (22, 1));
        let executable: Vec<bool> = tree.files.iter().map(|file| file.executable).collect();
        assert_eq!(executable, [false, true, false, false, false, false]);
    }

    #[test]
    fn a_file_alone_is_a_content_of_one_file() {
        let (temporary, root) = folder();
        write(&root.join("data.json"), "{}");
        let tree = Tree::walk(&root.join("data.json")).unwrap();
        assert_eq!((paths(&tree), tree.bytes), (vec!["data.json"], 2));
        symlink(root.join("data.json"), temporary.path().join("latest.json")).unwrap();
        assert_eq!(paths(&Tree::walk(&temporary.path().join("latest.json")).unwrap()), ["latest.json"]);
    }

    #[test]
    fn what_is_no_plain_file_is_refused_with_path_cause_and_way_out() {
        let (_temporary, root) = folder();
        write(&root.join("good"), "x");
        symlink("good", root.join("link")).unwrap();
        let _listener = UnixListener::bind(root.join("socket")).unwrap();
        write(&root.join("bad\nname"), "x");
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "x").unwrap();
        let error = Tree::walk(&root).unwrap_err();
        assert_eq!(error.to_string(), format!("{} cannot be pushed", root.display()));
        let at = root.display();
        assert_eq!(
            error.details(),
            [
                format!(
                    "{at}/bad\nname cannot have this path in a content: it has the character '\\n' at byte 3; \
                     backslashes and control characters are not allowed; rename it"
                ),
                format!("{at}/link is a symbolic link: put what it points to in its place, or leave it out"),
                format!("{at}/socket is a socket, and content is made of files: leave it out"),
                format!("{at}/\u{fffd} has a name that is not UTF-8: rename it"),
            ]
        );
        assert!(matches!(
            Tree::walk(Path::new("/dev/null")).unwrap_err().details()[..],
            [ref line] if line == "/dev/null is a device, and content is made of files: leave it out"
        ));
    }

    #[test]
    fn many_obstacles_are_told_briefly() {
        let (_temporary, root) = folder();
        for n in 0..30 {
            symlink("x", root.join(format!("{n:02}"))).unwrap();
        }
        let details = Tree::walk(&root).unwrap_err().details();
        assert_eq!((details.len(), details[20].as_str()), (21, "... and 10 more"));
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        let (_temporary, root) = folder();
        let told = |root: &Path| Tree::walk(root).unwrap_err().to_string();
        assert!(told(&root).ends_with("rules holds no file: a content has at least one"), "{}", told(&root));
        assert!(told(&root.join("none")).starts_with("cannot read "));
        fs::write(root.join("long"), "").unwrap();
        File::options().write(true).open(root.join("long")).unwrap().set_len((4 << 30) + 1).unwrap();
        assert!(
            told(&root).ends_with("rules holds more than 4GiB, the most of one content"),
            "{}",
            told(&root)
        );
        fs::remove_file(root.join("long")).unwrap();
        for n in 0..=MAX_FILES {
            fs::write(root.join(n.to_string()), "").unwrap();
        }
        assert!(told(&root).ends_with("pack them into one file"), "{}", told(&root));
    }
}
