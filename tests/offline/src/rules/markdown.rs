//! Pages whose links lead somewhere.

use std::collections::BTreeSet;

use crate::tree::Tree;

/// A line of a page, and whether it stands in a code block and what language that is in.
pub struct Line<'a> {
    /// From 1.
    pub number: usize,
    /// The text without its line end.
    pub text: &'a str,
    /// The language of the code block it stands in; empty when the block names none.
    pub code: Option<&'a str>,
}

/// The lines of a page, without the fences of its code blocks.
#[must_use]
pub fn lines(page: &str) -> Vec<Line<'_>> {
    let mut found = Vec::new();
    let mut code: Option<&str> = None;
    for (text, number) in page.lines().zip(1..) {
        if let Some(language) = text.trim_start().strip_prefix("```") {
            code = if code.is_some() { None } else { Some(language.trim()) };
        } else {
            found.push(Line { number, text, code });
        }
    }
    found
}

/// The targets of `[text](target)` and `[name]: target` in one line of prose.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    // What stands between backquotes is code.
    for prose in line.split('`').step_by(2) {
        let ends = prose.match_indices("](").map(|(at, mark)| at + mark.len());
        found.extend(ends.filter_map(|start| prose[start..].split([')', ' ']).next()));
    }
    if line.starts_with('[')
        && let Some((_, target)) = line.split_once("]: ")
    {
        found.extend(target.split_whitespace().next());
    }
    found
}

/// The anchors that a page's headings make, as GitHub writes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in lines(page).iter().filter(|line| line.code.is_none()) {
        let Some(heading) = line.text.strip_prefix('#').map(|rest| rest.trim_start_matches('#')) else {
            continue;
        };
        let word = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
        let slug: String = heading.trim().to_lowercase().chars().filter(word).collect();
        let slug = slug.replace(' ', "-");
        let mut unique = slug.clone();
        let mut copy = 0;
        while !found.insert(unique.clone()) {
            copy += 1;
            unique = format!("{slug}-{copy}");
        }
    }
    found
}

/// The path that `target` means in the page at `path`; nothing when it leads out of the repository.
fn resolve(path: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev().collect(),
    };
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Links to files, folders and headings of this repository lead to one.
#[must_use]
pub fn links_lead_somewhere(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, page) in tree.ending(".md") {
        for line in lines(page).iter().filter(|line| line.code.is_none()) {
            for target in targets(line.text) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let to = if file.is_empty() { Some(path.to_owned()) } else { resolve(path, file) };
                let place = format!("{path}:{}", line.number);
                match to.filter(|to| tree.exists(to)) {
                    None => found.push(format!("{place}: nothing at {target}")),
                    Some(to)
                        if !anchor.is_empty()
                            && !anchors(tree.text(&to).unwrap_or_default()).contains(anchor) =>
                    {
                        found.push(format!("{place}: no heading #{anchor} in {to}"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_are_found() {
        let check = |text: &str, expected: &[&str]| {
            let tree = Tree::of(&[
                ("docs/a/b.md", text),
                ("docs/c.md", "# The `x`: y_z\n# Two\n# Two\n"),
                ("README.md", ""),
            ]);
            let found = links_lead_somewhere(&tree);
            assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
            assert!(found.iter().zip(expected).all(|(v, part)| v.contains(part)), "{found:?}");
        };
        check("[x](../c.md) [y](/README.md) [z](..) [s](https://example.org/x) [h](../c.md#the-x-y_z)", &[]);
        check("# Here\n[x](#here) [y](../c.md#two-1)", &[]);
        check("[x](c.md)", &["docs/a/b.md:1: nothing at c.md"]);
        check("\n[x](../c.md#three)", &["docs/a/b.md:2: no heading #three in docs/c.md"]);
        check("[x]: ../d.md", &["nothing at ../d.md"]);
        check("[x](../../../../etc)", &["nothing at"]);
        check("```sh\n[x](no.md)\n```\n`[x](no.md)`", &[]);
    }
}
