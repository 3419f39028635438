//! Files, folders and standard input with manifests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use wire::manifest::{self, Located, ManifestError};

use crate::failure::Failure;
use crate::terminal::Terminal;

/// Most files of one apply: as many as it may have documents.
const MAX_FILES: usize = manifest::MAX_DOCUMENTS;
/// Endings of files that a folder is searched for.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads all manifests. Folders are read flat, in order of name.
///
/// The second part of the answer names folders inside folders, which are left out.
pub(crate) fn read(
    paths: &[PathBuf],
    terminal: &mut Terminal,
) -> Result<(Vec<Located>, Vec<PathBuf>), Failure> {
    let mut located = Vec::new();
    let mut errors: Vec<ManifestError> = Vec::new();
    let mut left_out = Vec::new();
    let mut take = |name: &str, bytes: &[u8]| match manifest::read(name, bytes) {
        Ok(more) => located.extend(more),
        Err(more) => errors.extend(more),
    };
    let limit = u64::try_from(manifest::MAX_BYTES).unwrap_or(u64::MAX);
    for path in paths {
        if path.as_os_str() == "-" {
            let bytes = terminal.read_input(limit).map_err(|source| unreadable("standard input", source))?;
            take("standard input", &bytes);
            continue;
        }
        for file in files(path, &mut left_out)? {
            take(&file.display().to_string(), &read_bounded(&file, limit)?);
        }
    }
    if !errors.is_empty() {
        return Err(Failure::Manifests(errors));
    }
    check_together(&located, paths)?;
    Ok((located, left_out))
}

fn files(path: &Path, left_out: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    let fail = |source| unreadable(&path.display().to_string(), source);
    if !fs::metadata(path).map_err(fail)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?.path();
        if entry.is_dir() {
            left_out.extend(Some(entry).filter(|folder| may_hold_manifests(folder)));
        } else if may_be_manifest(&entry) {
            files.push(entry);
        }
        if files.len() > MAX_FILES {
            return Err(Failure::Input(format!(
                "{} holds more than {MAX_FILES} manifest files; one apply takes at most {} objects",
                path.display(),
                manifest::MAX_DOCUMENTS
            )));
        }
    }
    files.sort();
    Ok(files)
}

fn may_be_manifest(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

/// Whether somebody may have meant a folder to be applied. A folder of something else goes without saying.
fn may_hold_manifests(folder: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(folder) else { return true };
    entries.any(|entry| entry.is_ok_and(|entry| may_be_manifest(&entry.path())))
}

/// Reads a file up to one byte more than the limit, so that the reader can tell that it is too large.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| unreadable(&path.display().to_string(), source))
}

fn unreadable(name: &str, source: io::Error) -> Failure {
    Failure::Read { name: name.to_owned(), source }
}

fn check_together(located: &[Located], paths: &[PathBuf]) -> Result<(), Failure> {
    if located.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Failure::Input(format!("there is no manifest in {}", names.join(", "))));
    }
    if located.len() > manifest::MAX_DOCUMENTS {
        return Err(Failure::Input(format!(
            "there are {} objects; one apply takes at most {}",
            located.len(),
            manifest::MAX_DOCUMENTS
        )));
    }
    let mut seen = BTreeMap::new();
    for it in located {
        if let Some(first) = seen.insert((it.kind(), it.name()), &it.place) {
            return Err(Failure::Input(format!(
                "{}: {} {} stands in {} already; one apply names an object once",
                it.place,
                it.kind(),
                it.name(),
                first
            )));
        }
    }
    Ok(())
}

/// What messages call the n-th resource: its file and line, kind and name.
pub(crate) fn describe(located: &[Located]) -> Vec<String> {
    let describe = |it: &Located| format!("{}:{} {} {}", it.place.file, it.place.line, it.kind(), it.name());
    located.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::Traits;

    const GROUP: &str =
        "{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: a}, spec: {path: /a}}\n";

    fn terminal(input: &'static str) -> Terminal {
        Terminal::new(io::sink(), io::sink(), input.as_bytes(), Traits::default())
    }

    #[track_caller]
    fn refused(paths: &[PathBuf], input: &'static str, code: u8, expected: &str) {
        let failure = read(paths, &mut terminal(input)).unwrap_err();
        assert_eq!(failure.exit_code(), code);
        let text = failure.render(&crate::view::style::Style::now(false)).unwrap();
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn folders_are_read_flat_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("below")).unwrap();
        fs::write(path.join("below/c.yaml"), GROUP).unwrap();
        fs::create_dir(path.join("content")).unwrap();
        fs::write(path.join("content/http.rules"), "rule 1001").unwrap();
        fs::write(path.join("b.yml"), GROUP.replace("name: a", "name: b")).unwrap();
        fs::write(path.join("a.yaml"), GROUP).unwrap();
        fs::write(path.join("notes.txt"), "not a manifest").unwrap();
        let (located, left_out) = read(&[path.to_owned()], &mut terminal("")).unwrap();
        let names: Vec<_> = located.iter().map(Located::name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(left_out, [path.join("below")]);
        let described = describe(&located);
        assert!(described[1].ends_with("b.yml:1 Group b"), "{described:?}");
    }

    #[test]
    fn standard_input_is_read() {
        let (located, _) = read(&["-".into()], &mut terminal(GROUP)).unwrap();
        assert_eq!(located[0].place.to_string(), "standard input:1:1 (document 1)");
    }

    #[test]
    fn what_cannot_be_applied_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        refused(&[path.join("none.yaml")], "", 1, "error: cannot read ");
        refused(std::slice::from_ref(&path), "", 3, "there is no manifest in ");
        refused(&["-".into()], "kind: [", 3, "1 mistake in the manifests\n  standard input:1:");
        fs::write(path.join("a.yaml"), GROUP).unwrap();
        fs::write(path.join("b.yaml"), GROUP).unwrap();
        refused(&[path], "", 3, "a.yaml:1:1 (document 1) already; one apply names an object once");
    }
}
