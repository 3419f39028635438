//! `docs/benchmarks.md`: one section for each work, each rewritten alone.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::args::Work;

/// What stands above the sections of a new page. What people wrote there stays: goals, and why one was missed.
const HEAD: &str = "# Benchmarks

Muster's speed beside the floor: raw NATS that does nothing but the transport of the same work, on the same machine, in the same
run. Ratios carry over to other machines; times do not. Every figure is the median of several runs, with the smallest and the
largest in brackets; those of W3 are of one run. Everything runs on one machine over loopback: the broker, the server, and all
agents share its cores, so what the agents do counts against the server. `make bench` writes this page; `cargo run --release
--package bench -- w2` (with the `nats-server` of `.tools/bin` on PATH and a release build of `musterd`) measures one work and
rewrites its section alone.
";

/// The order of the sections.
const ORDER: [Work; 11] = [
    Work::W1,
    Work::W1b,
    Work::W2,
    Work::W3,
    Work::W3b,
    Work::W3c,
    Work::W5,
    Work::W7,
    Work::Trust,
    Work::Telemetry,
    Work::Micro,
];

fn marks(work: Work) -> (String, String) {
    let name = format!("{work:?}").to_lowercase();
    (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"))
}

/// Puts a section in its place and leaves the others as they are.
///
/// # Errors
/// When the page cannot be read or written.
pub fn write(path: &Path, work: Work, section: &str) -> Result<()> {
    let old = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    std::fs::write(path, with_section(&old, work, section))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn with_section(old: &str, work: Work, section: &str) -> String {
    let mut page = old.find("\n<!-- ").map_or(HEAD, |at| &old[..at]).to_owned();
    for each in ORDER {
        let (begin, end) = marks(each);
        let kept = old.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(text, _)| text);
        let text = if each == work { Some(section) } else { kept };
        if let Some(text) = text {
            page.push_str(&format!("\n{begin}{}\n{end}", text.trim_end_matches('\n')));
        }
    }
    page
}

/// A Markdown table.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let rule: Vec<String> = head.iter().map(|_| "---".to_owned()).collect();
    let mut text = line(&head) + &line(&rule);
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_the_others_stay() {
        let first = with_section("", Work::W2, "## W2\nold\n");
        let second = with_section(&first, Work::W1, "## W1\none");
        let third = with_section(&second, Work::W2, "## W2\nnew");
        assert!(third.starts_with(HEAD));
        assert!(!third.contains("old"));
        let (w1, w2) =
            (third.find("## W1\none\n<!-- end of w1 -->"), third.find("## W2\nnew\n<!-- end of w2 -->"));
        assert!(w1.is_some() && w1 < w2, "{third}");
        assert_eq!(with_section(&third, Work::W2, "## W2\nnew"), third);
        let told = third.replacen("# Benchmarks", "# Benchmarks\n\nA goal was missed.", 1);
        assert_eq!(with_section(&told, Work::W2, "## W2\nnew"), told);
    }

    #[test]
    fn tables_are_markdown() {
        assert_eq!(
            table(&["a", "b"], &[vec!["1".into(), "2".into()]]),
            "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
        );
    }
}
