//! Where backups lie: a folder of this machine, or a bucket of an object store.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _};

use super::s3::{self, S3Args};

/// Begin of the name of a place in an object store.
const S3: &str = "s3://";

/// The name of a place, as people give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A folder.
    Folder(PathBuf),
    /// What begins with a prefix in a bucket.
    Bucket {
        /// The bucket.
        bucket: String,
        /// The prefix; an empty one is the whole bucket.
        prefix: Path,
    },
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(name) = text.strip_prefix(S3) else {
            return match text.split_once("://") {
                Some((scheme, _)) => {
                    Err(format!("{scheme}:// is not known; give a folder or {S3}BUCKET/PREFIX"))
                }
                None if text.is_empty() => Err(format!("give a folder or {S3}BUCKET/PREFIX")),
                None => Ok(Self::Folder(text.into())),
            };
        };
        let (bucket, prefix) = name.split_once('/').unwrap_or((name, ""));
        if bucket.is_empty() {
            return Err(format!("there is no bucket in it; give {S3}BUCKET/PREFIX"));
        }
        let prefix = Path::parse(prefix).map_err(|error| error.to_string())?;
        Ok(Self::Bucket { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Bucket { bucket, prefix } if prefix.is_root() => write!(f, "{S3}{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "{S3}{bucket}/{prefix}"),
        }
    }
}

/// A place whose files are read and written.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    location: Location,
    /// Of files by their path from [`Shelf::at`].
    pub(super) store: Arc<dyn ObjectStore>,
    root: Path,
}

impl Shelf {
    /// A place that is there.
    pub(crate) fn open(location: &Location, s3: &S3Args) -> Result<Self, Error> {
        let (store, root): (Arc<dyn ObjectStore>, _) = match location {
            // A file is on disk when it is written, as it is in an object store.
            Location::Folder(path) => {
                (Arc::new(LocalFileSystem::new_with_prefix(path)?.with_fsync(true)), Path::default())
            }
            Location::Bucket { bucket, prefix } => (Arc::new(s3::open(bucket, s3)?), prefix.clone()),
        };
        Ok(Self { location: location.clone(), store, root })
    }

    /// A place that is made if it is a folder that is not there. All files that this process makes from then on are for
    /// its user alone.
    pub(crate) fn make(location: &Location, s3: &S3Args) -> Result<Self, Error> {
        if let Location::Folder(path) = location {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(local)?;
        }
        Self::open(location, s3)
    }

    /// The path of a folder or file.
    pub(super) fn at(&self, names: &[&str]) -> Path {
        names.iter().fold(self.root.clone(), |path, name| path.join(*name))
    }

    /// What people call it.
    pub(super) fn called(&self, path: &Path) -> String {
        match &self.location {
            Location::Folder(folder) => folder.join(path.as_ref()).display().to_string(),
            Location::Bucket { bucket, .. } => format!("{S3}{bucket}/{path}"),
        }
    }

    /// Names of the folders in it.
    pub(super) async fn folders(&self) -> Result<Vec<String>, Error> {
        let listed = self.store.list_with_delimiter(Some(&self.root)).await?;
        Ok(listed.common_prefixes.iter().filter_map(|path| Some(path.filename()?.to_owned())).collect())
    }

    /// Removes a folder; of its files the one named goes first.
    pub(super) async fn remove(&self, folder: &str, first: &str) -> Result<(), Error> {
        match self.store.delete(&self.at(&[folder, first])).await {
            Err(Error::NotFound { .. }) => {}
            deleted => deleted?,
        }
        if let Location::Folder(path) = &self.location {
            // With what the store does not show: files that were being written.
            return match fs::remove_dir_all(path.join(folder)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed.map_err(local),
            };
        }
        let files = self.store.list(Some(&self.at(&[folder]))).map_ok(|file| file.location).boxed();
        self.store.delete_stream(files).map_ok(drop).try_collect().await
    }
}

impl fmt::Display for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.location.fmt(f)
    }
}

/// A failure of this machine, or of the store behind a file of this machine's kind.
pub(super) fn local(source: io::Error) -> Error {
    source.downcast().unwrap_or_else(|source| Error::Generic { store: "folder", source: source.into() })
}

/// Why a place cannot be used, and what to do about it where that is known. Object stores explain themselves at length:
/// their code and their sentence are enough.
pub(super) fn reason(error: &Error) -> String {
    let whole = match error {
        Error::Generic { source, .. } => source.to_string(),
        _ => error.to_string(),
    };
    let part = |name: &str| {
        let (_, rest) = whole.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    };
    match (part("Code"), part("Message")) {
        (Some(code), message) => format!("the object store says {code}: {}", message.unwrap_or_default()),
        (None, _) if whole.contains(s3::MACHINE_CREDENTIALS) => format!(
            "there are no credentials for the object store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ({whole})"
        ),
        (None, _) => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_part_of_a_bucket() {
        let folder = |path: &str| Ok(Location::Folder(path.into()));
        let bucket = |bucket: &str, prefix: &str| {
            Ok(Location::Bucket { bucket: bucket.to_owned(), prefix: Path::parse(prefix).unwrap() })
        };
        for (text, location) in [
            ("backups", folder("backups")),
            ("/var/s3:/x", folder("/var/s3:/x")),
            ("s3://b", bucket("b", "")),
            ("s3://b/", bucket("b", "")),
            ("s3://b/a/c/", bucket("b", "a/c")),
        ] {
            assert_eq!(text.parse(), location, "{text}");
        }
        for (text, why) in [
            ("", "give a folder"),
            ("gs://b/x", "gs:// is not known"),
            ("s3://", "no bucket"),
            ("s3:///x", "no bucket"),
            ("s3://b/a//c", "empty"),
            ("s3://b/../c", "illegal character sequence"),
        ] {
            let said = text.parse::<Location>().unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        let shown = |text: &str| text.parse::<Location>().unwrap().to_string();
        assert_eq!([shown("s3://b/"), shown("s3://b/a/"), shown("a/b")], ["s3://b", "s3://b/a", "a/b"]);
    }

    #[test]
    fn the_words_of_an_object_store_are_enough() {
        let said = |text: &str| reason(&Error::Generic { store: "S3", source: text.into() });
        let answer = "403: <Error><Code>SignatureDoesNotMatch</Code><Message>Check your key.</Message><Bytes>41</Bytes>";
        assert_eq!(said(answer), "the object store says SignatureDoesNotMatch: Check your key.");
        assert_eq!(said("<Code>Slow</Code>"), "the object store says Slow: ");
        assert_eq!(said("<Code>never ends"), "<Code>never ends");
        let none = said("Error performing PUT http://169.254.169.254/latest/api/token: no route");
        assert!(none.contains("set AWS_ACCESS_KEY_ID") && none.contains("no route"), "{none}");
        let io =
            local(io::Error::other(Error::NotImplemented { operation: "o".into(), implementer: "i".into() }));
        assert!(matches!(io, Error::NotImplemented { .. }), "{io}");
    }
}
