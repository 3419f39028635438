//! What W3 distributes: a made text of rules with edits, and real releases fetched by name into a cache.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::say;

/// Length of the made content.
pub const MADE_BYTES: usize = 64 << 20;
/// One part in this many of the made content differs in its next revision.
const CHANGED_SHARE: usize = 50;
/// Longest edit of the made content.
const MAX_EDIT: usize = 2_064;
/// Different words of the made content: about what a pack of rules has.
const WORDS: u64 = 4_096;

/// Two revisions of a content.
#[derive(Debug, Clone)]
pub struct Pair {
    /// What it is, for the table.
    pub name: String,
    /// The older revision.
    pub old: PathBuf,
    /// The newer one.
    pub new: PathBuf,
}

/// A SplitMix64 sequence: the same data on every machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn at_most(&mut self, bound: usize) -> Result<usize> {
        Ok(usize::try_from(self.below(u64::try_from(bound)? + 1))?)
    }
}

fn words() -> Vec<String> {
    let mut chance = Chance(99);
    let letters: Vec<char> = ('a'..='z').collect();
    let mut letter =
        || letters.get(usize::try_from(chance.below(26)).unwrap_or_default()).copied().unwrap_or('a');
    (0..WORDS).map(|n| (0..3 + n % 8).map(|_| letter()).collect()).collect()
}

/// Rules: common words, numbers, now and then bytes in hex that nothing compresses.
fn text(chance: &mut Chance, words: &[String], bytes: usize) -> Vec<u8> {
    let mut out = String::with_capacity(bytes + 400);
    while out.len() < bytes {
        out.push_str(&format!("rule {:08x} severity={}", chance.below(1 << 32), chance.below(5)));
        for _ in 0..4 + chance.below(12) {
            // The least of three draws: some words are common, most are rare.
            let draw = chance.below(WORDS).min(chance.below(WORDS)).min(chance.below(WORDS));
            out.push(' ');
            out.push_str(usize::try_from(draw).ok().and_then(|at| words.get(at)).map_or("", |word| word));
        }
        if chance.below(3) == 0 {
            out.push_str(&format!(" {:016x}", chance.next()));
        }
        out.push('\n');
    }
    out.truncate(bytes);
    out.into_bytes()
}

/// The next revision: pieces changed, inserted, removed and moved, one after the other, from front to back.
fn edited(chance: &mut Chance, words: &[String], old: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(old.len() + old.len() / CHANGED_SHARE);
    let (mut at, mut kind) = (0, 0);
    // Edits are half of their greatest length on average, and this far apart their share comes out right.
    let apart = MAX_EDIT * CHANGED_SHARE;
    while at < old.len() {
        let keep = chance.at_most(apart)?.min(old.len() - at);
        out.extend_from_slice(&old[at..at + keep]);
        at += keep;
        let length = chance.at_most(MAX_EDIT)?.min(old.len() - at);
        match kind % 4 {
            0 => {
                out.extend(text(chance, words, length));
                at += length;
            }
            1 => out.extend(text(chance, words, length)),
            2 => at += length,
            _ => {
                let from = chance.at_most(old.len() - length)?;
                out.extend_from_slice(&old[from..from + length]);
                at += length;
            }
        }
        kind += 1;
    }
    Ok(out)
}

/// The made content of `bytes` and its next revision, in two files in `dir`.
///
/// # Errors
/// When they cannot be written.
pub fn made(dir: &Path, bytes: usize) -> Result<Pair> {
    let (mut chance, words) = (Chance(7), words());
    let old = text(&mut chance, &words, bytes);
    let new = edited(&mut chance, &words, &old)?;
    let pair = Pair {
        name: format!("made, {} MiB, 2 % different", bytes >> 20),
        old: dir.join("made-1"),
        new: dir.join("made-2"),
    };
    std::fs::write(&pair.old, old)?;
    std::fs::write(&pair.new, new)?;
    Ok(pair)
}

/// Real releases: one apart and thirty apart of a data set, and two of a program. What cannot be fetched is
/// left out and told.
#[must_use]
pub fn real(cache: &Path) -> Vec<Pair> {
    let data = |release: &str| npm(cache, "@mdn/browser-compat-data", release, "package/data.json");
    let program = |release: &str| wheel(cache, "ruff", release, "ruff");
    let pairs = [
        ("browser-compat-data 8.1.7 → 8.1.9, consecutive", data("8.1.7"), data("8.1.9")),
        ("browser-compat-data 7.3.11 → 8.1.9, 30 releases", data("7.3.11"), data("8.1.9")),
        ("ruff 0.17.5 → 0.17.6, executable", program("0.17.5"), program("0.17.6")),
    ];
    let pair = |(name, old, new): (&str, Result<PathBuf>, Result<PathBuf>)| match (old, new) {
        (Ok(old), Ok(new)) => Some(Pair { name: name.to_owned(), old, new }),
        (Err(error), _) | (_, Err(error)) => {
            say(&format!("W3 leaves out {name}: {error:#}"));
            None
        }
    };
    pairs.into_iter().filter_map(pair).collect()
}

/// One file of a release of an npm package.
fn npm(cache: &Path, package: &str, release: &str, member: &str) -> Result<PathBuf> {
    let dir = cache.join(format!("{}-{release}", package.replace(['@', '/'], "_")));
    fetched(&dir, "content", |draft| {
        let spec = format!("{package}@{release}");
        run(Command::new("npm").args(["pack", "--silent", &spec]).current_dir(draft))?;
        let archive = only_file(draft, ".tgz")?;
        run(Command::new("tar").arg("-xzf").arg(&archive).arg(member).current_dir(draft))?;
        Ok(draft.join(member))
    })
}

/// One program of a release on PyPI.
fn wheel(cache: &Path, package: &str, release: &str, program: &str) -> Result<PathBuf> {
    let dir = cache.join(format!("{package}-{release}"));
    fetched(&dir, "content", |draft| {
        let spec = format!("{package}=={release}");
        let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", &spec];
        run(Command::new("python3").args(pip).current_dir(draft))?;
        let archive = only_file(draft, ".whl")?;
        run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&archive).arg(".").current_dir(draft))?;
        Ok(draft.join(format!("{package}-{release}.data/scripts/{program}")))
    })
}

/// A file of the cache, fetched if it is not there. The folder appears whole or not at all.
fn fetched(dir: &Path, name: &str, fetch: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
    let there = dir.join(name);
    if there.is_file() {
        return Ok(there);
    }
    let draft = dir.with_extension("draft");
    drop(std::fs::remove_dir_all(&draft));
    std::fs::create_dir_all(&draft)?;
    let file = fetch(&draft)?;
    std::fs::create_dir_all(dir)?;
    std::fs::rename(&file, &there).with_context(|| format!("{} is not there", file.display()))?;
    std::fs::remove_dir_all(&draft)?;
    Ok(there)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", told.trim());
    Ok(())
}

fn only_file(dir: &Path, ending: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            return Ok(path);
        }
    }
    bail!("nothing was fetched into {}", dir.display())
}
