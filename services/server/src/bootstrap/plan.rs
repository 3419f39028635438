//! What goes into a Secret: folders as flat names, and what may be added to what is there.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// What a Secret holds.
pub(super) type Data = BTreeMap<String, Vec<u8>>;

/// Stands between the parts of a path: keys of a Secret have no slash, and no name of ours has two dots.
const SEPARATOR: &str = "..";

/// The files of one folder, by name.
pub(super) fn files(dir: &Path) -> io::Result<Data> {
    let mut found = Data::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            found.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
        }
    }
    Ok(found)
}

/// All files below a folder, by their path with [`SEPARATOR`] in it.
pub(super) fn collect(dir: &Path) -> io::Result<Data> {
    let mut found = files(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let folder = entry.file_name().to_string_lossy().into_owned();
            let below = collect(&entry.path())?;
            found.extend(below.into_iter().map(|(name, body)| (format!("{folder}{SEPARATOR}{name}"), body)));
        }
    }
    Ok(found)
}

/// Puts files back where [`collect`] found them, for their owner alone.
pub(super) fn restore(data: &Data, dir: &Path) -> io::Result<()> {
    let make = |dir: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    make(dir)?;
    for (name, body) in data {
        let parts: Vec<&str> = name.split(SEPARATOR).collect();
        if parts.iter().any(|part| part.is_empty() || *part == "." || part.contains('/')) {
            return Err(io::Error::other(format!("its key {name:?} is no path")));
        }
        let path = dir.join(parts.join("/"));
        make(path.parent().unwrap_or(dir))?;
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
        io::Write::write_all(&mut file, body)?;
    }
    Ok(())
}

/// What is wanted and not there. What is there and was not wanted stays.
///
/// # Errors
/// The keys whose value is another than the one that is wanted.
pub(super) fn missing(there: &Data, wanted: &Data) -> Result<Data, Vec<String>> {
    let differ = |(name, body): (&String, &Vec<u8>)| {
        there.get(name).filter(|held| *held != body).map(|_| name.clone())
    };
    let different: Vec<String> = wanted.iter().filter_map(differ).collect();
    if !different.is_empty() {
        return Err(different);
    }
    let absent = wanted.iter().filter(|(name, _)| !there.contains_key(*name));
    Ok(absent.map(|(name, body)| (name.clone(), body.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(entries: &[(&str, &str)]) -> Data {
        entries.iter().map(|(name, body)| ((*name).to_owned(), body.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_folder_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let held = data(&[("director.key", "d"), ("fleets..a__b-c..roles..policy..fleet.creds", "c")]);
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        restore(&held, &first).unwrap();
        assert!(first.join("fleets/a__b-c/roles/policy/fleet.creds").exists());
        assert_eq!(collect(&first).unwrap(), held);
        for bad in ["a../etc", "..a", "a....b", ".....", "a..", "a...b/c"] {
            assert!(restore(&data(&[(bad, "")]), &second).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_there_stays() {
        let check =
            |there: &[(&str, &str)], wanted: &[(&str, &str)], expected: Result<&[(&str, &str)], &str>| {
                let expected = expected.map(data).map_err(|name| vec![name.to_owned()]);
                assert_eq!(missing(&data(there), &data(wanted)), expected);
            };
        check(&[], &[("a", "1")], Ok(&[("a", "1")]));
        check(&[("a", "1")], &[("a", "1"), ("b", "2")], Ok(&[("b", "2")]));
        check(&[("a", "1"), ("z", "9")], &[("a", "1")], Ok(&[]));
        check(&[("a", "other")], &[("a", "1"), ("b", "2")], Err("a"));
    }
}
