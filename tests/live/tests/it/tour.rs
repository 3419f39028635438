//! The tour of the README, executed: `make run`'s script as it is, then every command of every `console`
//! block in order, and what it prints held against the page.
//!
//! Moments and ages differ from run to run, and with them the width of columns: they are made equal before
//! the comparison. In expected output, `[..]` stands for any text within a line and a line `...` for any lines.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use live::until;
use tempfile::TempDir;

/// A command of the page and the lines that are printed under it.
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the tree is there")
}

/// Headings of the page whose `console` blocks are executed.
const HEADINGS: [&str; 2] = ["Tour", "Content"];

/// Steps of the `console` blocks below [`HEADINGS`].
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut in_tour, mut in_block) = (false, false);
    for (number, line) in page.lines().enumerate() {
        if let Some(heading) = line.strip_prefix("## ") {
            in_tour = HEADINGS.contains(&heading);
        } else if line.starts_with("```") {
            in_block = in_tour && line == "```console";
        } else if in_block {
            match (line.strip_prefix("$ "), line.strip_prefix("> "), steps.last_mut()) {
                (Some(command), _, _) => {
                    steps.push(Step { line: number + 1, command: command.to_owned(), expected: Vec::new() });
                }
                (None, Some(more), Some(step)) if step.expected.is_empty() => {
                    step.command.push('\n');
                    step.command.push_str(more);
                }
                (None, _, Some(step)) => step.expected.push(line.to_owned()),
                (None, _, None) => panic!("README.md:{}: output without a command", number + 1),
            }
        }
    }
    steps
}

/// Whether lines are as expected.
fn matches(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == "..." => {
            (0..=printed.len()).any(|skip| matches(rest, &printed[skip..]))
        }
        Some((line, rest)) => {
            printed.split_first().is_some_and(|(first, more)| fits(line, first) && matches(rest, more))
        }
    }
}

/// A line without what differs from run to run: moments, ages, trace ids, the number of spaces.
fn levelled(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_moment = |word: &str| word.len() >= 20 && word.ends_with('Z') && word[4..].starts_with('-');
    let is_age = |word: &str| word.trim_end_matches(|c: char| c.is_ascii_lowercase()).parse::<u64>().is_ok();
    let mut level: Vec<&str> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let ago_in = |ahead: usize| words.get(at + ahead) == Some(&"ago");
        match word {
            _ if is_moment(word) => level.push("MOMENT"),
            _ if word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) => level.push("TRACE"),
            _ if is_age(word) && (ago_in(1) || ago_in(2)) => level.push("AGE"),
            _ if word.len() <= 2 && ago_in(1) => {}
            _ => level.push(word),
        }
    }
    level.join(" ")
}

/// Whether one line is as expected.
fn fits(expected: &str, printed: &str) -> bool {
    let (expected, printed) = (levelled(expected), levelled(printed));
    let mut parts = expected.split("[..]");
    let mut rest = printed.as_str();
    let first = parts.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    let mut ends_open = false;
    for part in parts {
        ends_open = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty() || ends_open
}

#[test]
fn the_comparison_can_fail() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (expected, printed, holds) in [
        ("a\nb", "a\nb", true),
        ("a\nb", "a", false),
        ("a", "a\nb", false),
        ("a [..] c", "a bbb c", true),
        ("a [..] c", "a bbb d", false),
        ("a [..]", "a bbb", true),
        ("...\nz", "a\nb\nz", true),
        ("...\nz", "a\nb", false),
        ("x  2s ago  y", "x  13s ago y", true),
        ("last 9 s ago", "last 2 s ago", true),
        ("x  2s ago  y", "x  2s ago  z", false),
        ("at 2026-11-21T05:19:33Z", "at 2031-01-02T03:04:05Z", true),
        ("revision 16", "revision 17", false),
    ] {
        let printed: Vec<&str> = printed.lines().collect();
        assert_eq!(matches(&lines(expected), &printed), holds, "{expected:?} {printed:?}");
    }
}

/// The demo, as `make run` starts it. Stopped in order when dropped, so that a failed test leaves nothing.
struct Demo {
    dir: TempDir,
    child: Child,
}

impl Demo {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let out = File::create(dir.path().join("demo.log")).expect("a log can be made");
        let child = Command::new(root().join("deploy/demo.sh"))
            .env("MUSTER_DEMO_DIR", dir.path().join("demo"))
            .env("MUSTER_BIN_DIR", binaries())
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a file can be shared"))
            .stderr(out)
            .spawn()
            .expect("the demo starts");
        Self { dir, child }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("demo.log")).unwrap_or_default()
    }

    /// Runs a command as the page means it; what it printed.
    fn run(&self, command: &str) -> String {
        let place = format!("{}/", self.dir.path().join("demo").display());
        let path = format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap_or_default());
        let output = Command::new("bash")
            .args(["-c", &format!("exec 2>&1\n{}", command.replace(".demo/", &place))])
            .current_dir(root())
            .env("PATH", path)
            .env("MUSTER_DATA_DIR", format!("{place}musterd"))
            .stdin(Stdio::null())
            .output()
            .expect("bash is there");
        String::from_utf8_lossy(&output.stdout).trim_end().replace(&place, ".demo/")
    }

    /// Ctrl-C, and its end.
    fn stop(&mut self) -> ExitStatus {
        if let Some(status) = self.child.try_wait().expect("a child can be asked") {
            return status;
        }
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the demo can be signalled");
        self.child.wait().expect("a child can be waited for")
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stop();
    }
}

fn binaries() -> PathBuf {
    live::binary("muster").parent().expect("binaries lie in a folder").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_the_readme_is_true() {
    let page = fs::read_to_string(root().join("README.md")).expect("the README is there");
    let steps = steps(&page);
    assert!(steps.len() >= 8, "the README has a tour");
    let mut demo = Demo::start();
    until("the demo says what to try", || {
        let ended = demo.child.try_wait().expect("a child can be asked");
        assert_eq!(ended, None, "the demo ended: {}", demo.said());
        if demo.said().contains("Ctrl-C stops everything") { Ok(()) } else { Err(demo.said()) }
    })
    .await;
    let mut wrong = Vec::new();
    for step in &steps {
        let said = demo.run(&step.command);
        let printed: Vec<&str> = said.lines().collect();
        if !matches(&trimmed(&step.expected), &printed) {
            wrong.push(format!("README.md:{}: $ {}\n{said}", step.line, step.command));
        }
    }
    assert!(wrong.is_empty(), "these print something else:\n\n{}", wrong.join("\n"));
    assert_eq!(demo.stop().code(), Some(0), "Ctrl-C ends the demo in order: {}", demo.said());
}

/// Without empty lines at the end.
fn trimmed(lines: &[String]) -> Vec<String> {
    let kept = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |at| at + 1);
    lines[..kept].to_vec()
}
