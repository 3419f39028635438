//! A YAML stream, cut into its documents.
//!
//! YAML forbids a line that starts with `---` or `...` (and then ends or goes on with white space) inside
//! any document, block scalars included, so lines alone tell where documents end. Cutting first lets
//! each document be read as the kind it names, with its own limits, and lets one broken document be
//! reported beside the others.

/// One document of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section<'a> {
    /// Line of the stream on which `text` starts, from 0.
    pub(super) first_line: usize,
    /// The document with its `---` line, if it has one.
    pub(super) text: &'a str,
}

/// The documents that hold anything but comments, directives and white space.
pub(super) fn documents(stream: &str) -> impl Iterator<Item = Section<'_>> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let mut at = 0;
    let mut line_number = 0;
    let sections = std::iter::from_fn(move || {
        if at >= stream.len() {
            return None;
        }
        let (start, first_line) = (at, line_number);
        for line in stream[start..].split_inclusive('\n') {
            if is_marker(line, "---") && at > start {
                break;
            }
            at += line.len();
            line_number += 1;
            if is_marker(line, "...") {
                break;
            }
        }
        Some(Section { first_line, text: &stream[start..at] })
    });
    sections.filter(|section| section.text.lines().any(has_content))
}

/// The first line, from 1, that holds anything but comments and markers.
pub(super) fn first_content_line(section: &str) -> u64 {
    let lines = section.lines().take_while(|line| !has_content(line)).count();
    u64::try_from(lines).map_or(u64::MAX, |lines| lines.saturating_add(1))
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(line: &str) -> bool {
    if line.starts_with('%') || is_marker(line, "...") {
        return false;
    }
    let line = if is_marker(line, "---") { &line[3..] } else { line };
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stream: &str, expected: &[(usize, &str)]) {
        let got: Vec<_> = documents(stream).map(|section| (section.first_line, section.text)).collect();
        assert_eq!(got, expected, "{stream:?}");
    }

    #[test]
    fn streams_are_cut_at_markers() {
        check("", &[]);
        check("# nothing\n---\n\n--- # still nothing\n...\n", &[]);
        check("a: 1", &[(0, "a: 1")]);
        check("a: 1\n---\nb: 2\n", &[(0, "a: 1\n"), (1, "---\nb: 2\n")]);
        check("\u{feff}---\r\na: 1\r\n---\r\nb: 2", &[(0, "---\r\na: 1\r\n"), (2, "---\r\nb: 2")]);
        check("%YAML 1.2\n--- {a: 1}\n...\n# end\n", &[(1, "--- {a: 1}\n...\n")]);
        check("a: |\n  ---\n  ----\n----: x\n", &[(0, "a: |\n  ---\n  ----\n----: x\n")]);
    }
}
