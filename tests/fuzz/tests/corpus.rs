//! Every file of the corpus, and what lies near it, through its target.

use std::path::{Path, PathBuf};

use fuzz::{TARGETS, Target};

/// Places of a file at which it is cut and changed. All of them would take minutes for large files.
const PLACES: usize = 48;

fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let listed = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = listed.map(|entry| entry.expect("the folder can be read").path()).collect();
    files.sort();
    files
}

/// The bytes, cut and changed at some places.
fn near(bytes: &[u8], target: Target) {
    target(bytes);
    let step = bytes.len().div_ceil(PLACES).max(1);
    for at in (0..bytes.len()).step_by(step) {
        target(&bytes[..at]);
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = bytes.to_vec();
            changed[at] ^= flip;
            target(&changed);
        }
    }
}

#[test]
fn nothing_in_the_corpus_or_near_it_breaks_anything() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let bytes = std::fs::read(&file).expect("the file can be read");
            if let Err(panic) = std::panic::catch_unwind(|| near(&bytes, target)) {
                eprintln!("{name}: {} or something near it", file.display());
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn every_folder_of_the_corpus_has_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(root).expect("there is a corpus") {
        let name = entry.expect("it can be read").file_name().into_string().expect("names are text");
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name}");
    }
}
