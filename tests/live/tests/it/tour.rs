//! The tour of the README, executed: `make run`'s script as it is, then every command of every `console`
//! block in order, and what it prints held against the page.
//!
//! In expected output, `[..]` stands for any text within a line and a line `...` for any lines.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use live::until;

/// A command of the page and the lines that are printed under it.
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the tree is there")
}

/// Steps of the `console` blocks below the heading "Tour".
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut in_tour, mut in_block) = (false, false);
    for (number, line) in page.lines().enumerate() {
        if let Some(heading) = line.strip_prefix("## ") {
            in_tour = heading == "Tour";
        } else if line.starts_with("```") {
            in_block = in_tour && line == "```console";
        } else if in_block {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => {
                    steps.push(Step { line: number + 1, command: command.to_owned(), expected: Vec::new() });
                }
                (None, Some(step)) => step.expected.push(line.to_owned()),
                (None, None) => panic!("README.md:{}: output without a command", number + 1),
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

/// Whether one line is as expected. Spaces at its end do not count.
fn fits(expected: &str, printed: &str) -> bool {
    let mut parts = expected.trim_end().split("[..]");
    let mut rest = printed.trim_end();
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
    ] {
        let printed: Vec<&str> = printed.lines().collect();
        assert_eq!(matches(&lines(expected), &printed), holds, "{expected:?} {printed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_the_readme_is_true() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let page = std::fs::read_to_string(root().join("README.md")).expect("the README is there");
    let steps = steps(&page);
    assert!(steps.len() >= 8, "the README has a tour");
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let server = format!("http://127.0.0.1:{port}");
    let log = dir.path().join("demo.log");
    let out = std::fs::File::create(&log).expect("a log can be made");
    let bin = live::binary("muster").parent().expect("binaries lie in a folder").to_owned();
    let mut demo = tokio::process::Command::new(root().join("deploy/demo.sh"))
        .env("MUSTER_DEMO_DIR", dir.path().join("demo"))
        .env("MUSTER_LISTEN", format!("127.0.0.1:{port}"))
        .env("MUSTER_BIN_DIR", &bin)
        .stdin(Stdio::null())
        .stdout(out.try_clone().expect("a file can be shared"))
        .stderr(out)
        .kill_on_drop(true)
        .spawn()
        .expect("the demo starts");
    until("the demo says what to try", || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(demo.try_wait().expect("a child can be asked").is_none(), "the demo ended: {said}");
        if said.contains("muster status") { Ok(()) } else { Err(said) }
    })
    .await;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut wrong = Vec::new();
    for step in &steps {
        let output = tokio::process::Command::new("bash")
            .args(["-c", &step.command])
            .current_dir(root())
            .env("PATH", &path)
            .env("MUSTER_SERVER", &server)
            .env("MUSTER_DEMO_DIR", dir.path().join("demo"))
            .stdin(Stdio::null())
            .output()
            .await
            .expect("bash is there");
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said);
        let printed: Vec<&str> = said.trim_end().lines().collect();
        let expected: Vec<String> = trimmed(&step.expected);
        if !matches(&expected, &printed) {
            wrong.push(format!("README.md:{}: $ {}\n{said}", step.line, step.command));
        }
    }
    let pid = demo.id().expect("it runs").to_string();
    let _ = std::process::Command::new("kill").args(["-INT", &pid]).status();
    let status = demo.wait().await.expect("the demo ends");
    assert!(wrong.is_empty(), "these print something else:\n\n{}", wrong.join("\n"));
    assert!(
        status.success(),
        "Ctrl-C ends the demo in order: {}",
        std::fs::read_to_string(&log).unwrap_or_default()
    );
}

/// Without empty lines at the end.
fn trimmed(lines: &[String]) -> Vec<String> {
    let kept = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |at| at + 1);
    lines[..kept].to_vec()
}
