//! The same bytes by the tools that the field uses for it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::say;

/// What a tool made of it.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// Bytes of its output.
    pub bytes: u64,
    /// How long it took.
    pub time: Duration,
}

/// Runs a tool that writes `out`. `None` if it is not there.
fn tool(name: &str, args: &[&str], out: &Path) -> Result<Option<Made>> {
    if Command::new(name).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        say(&format!("W3 leaves out {name}: it is not there"));
        return Ok(None);
    }
    let begin = Instant::now();
    let status = Command::new(name)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let time = begin.elapsed();
    ensure!(status.success(), "{name} {args:?} failed");
    Ok(Some(Made { bytes: std::fs::metadata(out)?.len(), time }))
}

/// `zstd` of the whole file at a level, with a long window.
///
/// # Errors
/// When it is there and fails.
pub fn zstd(file: &Path, level: u32) -> Result<Option<Made>> {
    let dir = TempDir::new()?;
    let out = dir.path().join("out");
    let level = format!("-{level}");
    let (file, to) = (file.to_string_lossy(), out.to_string_lossy());
    tool("zstd", &["-q", "-f", "--long=27", "--single-thread", &level, &file, "-o", &to], &out)
}

/// Patches by `zstd --patch-from`, `xdelta3` and `bsdiff`, each at its strongest usual setting.
///
/// # Errors
/// When one is there and fails.
pub fn patches(old: &Path, new: &Path) -> Result<[Option<Made>; 3]> {
    let dir = TempDir::new()?;
    let out = dir.path().join("out");
    let (old, new, to) = (old.to_string_lossy(), new.to_string_lossy(), out.to_string_lossy());
    let from = format!("--patch-from={old}");
    Ok([
        tool("zstd", &["-q", "-f", "-19", "--long=27", "--single-thread", &from, &new, "-o", &to], &out)?,
        tool("xdelta3", &["-9", "-f", "-e", "-s", &old, &new, &to], &out)?,
        tool("bsdiff", &[&old, &new, &to], &out)?,
    ])
}
