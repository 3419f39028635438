//! What no file may contain: addresses of package registries, paths of one machine, work left for later.

use crate::tree::{Tree, is_generated, root};

/// Parts of registry addresses. Written in halves, so that this list does not name one itself.
const REGISTRIES: [(&str, &str); 10] = [
    ("crates", ".io"),
    ("pypi", ".org"),
    ("files.python", "hosted.org"),
    ("registry.npm", "js.org"),
    ("proxy.golang", ".org"),
    ("sum.golang", ".org"),
    ("deb.debian", ".org"),
    ("repo.maven", ".apache.org"),
    ("registry-1.docker", ".io"),
    ("rubygems", ".org"),
];

/// Words that mark work as unfinished, in halves as well.
const UNFINISHED: [(&str, &str); 4] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("HA", "CK")];

/// Where people and build machines keep their own files, in halves as well.
const HOMES: [(&str, &str); 4] = [("/ro", "ot/"), ("/ho", "me/"), ("/Us", "ers/"), ("/wo", "rk/")];

/// Files that Cargo writes.
const WRITTEN_BY_CARGO: &str = "Cargo.lock";

fn lines(tree: &Tree) -> impl Iterator<Item = (String, &str)> {
    tree.files()
        .filter(|(path, _)| !path.ends_with(WRITTEN_BY_CARGO) && !is_generated(path))
        .flat_map(|(path, text)| text.lines().zip(1..).map(move |(line, n)| (format!("{path}:{n}"), line)))
}

/// No file names the address of a package registry: which one is used is the machine's own setting.
#[must_use]
pub fn no_registries(tree: &Tree) -> Vec<String> {
    let needles: Vec<String> = REGISTRIES.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let mut found = Vec::new();
    for (place, line) in lines(tree) {
        found.extend(
            needles.iter().filter(|n| line.contains(*n)).map(|n| format!("{place}: names the registry {n}")),
        );
    }
    found
}

/// No file names a folder of the machine it was written on.
#[must_use]
pub fn no_machine_paths(tree: &Tree) -> Vec<String> {
    let mut needles: Vec<String> = HOMES.iter().map(|(a, b)| format!("{a}{b}")).collect();
    needles.push(format!("{}/", root().display()));
    let mut found = Vec::new();
    for (place, line) in lines(tree) {
        for needle in &needles {
            // `/servers/...` may hold such a folder's name; a path of the machine begins with it.
            let begins =
                |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-./}".contains(c));
            if line.match_indices(needle.as_str()).any(|(at, _)| begins(at)) {
                found.push(format!("{place}: names a folder of one machine, {needle}"));
                break;
            }
        }
    }
    found
}

/// No file marks work as left for later.
#[must_use]
pub fn nothing_left_for_later(tree: &Tree) -> Vec<String> {
    let needles: Vec<String> = UNFINISHED.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let whole = |line: &str, needle: &str| {
        let letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        line.match_indices(needle).any(|(at, word)| {
            !letter(line[..at].chars().next_back()) && !letter(line[at + word.len()..].chars().next())
        })
    };
    let mut found = Vec::new();
    for (place, line) in lines(tree) {
        found.extend(needles.iter().filter(|n| whole(line, n)).map(|n| format!("{place}: {n}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&Tree) -> Vec<String>, line: &str, bad: bool) {
        assert_eq!(rule(&Tree::of(&[("docs/a.md", line)])).len(), usize::from(bad), "{line}");
        assert!(rule(&Tree::of(&[("Cargo.lock", line)])).is_empty());
    }

    #[test]
    fn registries_are_found() {
        check(no_registries, "see the registry", false);
        check(no_registries, &["https://static.crates", ".io/x"].concat(), true);
        check(no_registries, &["index-url = https://pypi", ".org/simple"].concat(), true);
    }

    #[test]
    fn machine_paths_are_found() {
        check(no_machine_paths, "path: /servers/work/web", false);
        check(no_machine_paths, &["cd /wo", "rk/main"].concat(), true);
        check(no_machine_paths, &["\"/ho", "me/ann/x\""].concat(), true);
        check(no_machine_paths, &format!("{}/target", root().display()), true);
    }

    #[test]
    fn unfinished_work_is_found() {
        check(nothing_left_for_later, "a hackney XXXL todo", false);
        check(nothing_left_for_later, &["// TO", "DO: x"].concat(), true);
        check(nothing_left_for_later, &["FIX", "ME"].concat(), true);
    }
}
