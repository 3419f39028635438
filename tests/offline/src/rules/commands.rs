//! Commands that the pages tell people to type.

use crate::rules::{makefile, markdown};
use crate::tree::Tree;

/// Languages of code blocks whose lines are commands.
const SHELLS: [&str; 5] = ["bash", "console", "sh", "shell", "text"];

/// A command as a page writes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// Page and line.
    pub place: String,
    /// The program's name without its folder, and its arguments.
    pub words: Vec<String>,
    /// A line to type as it stands, and not a mention in a sentence, which may leave arguments out.
    pub whole: bool,
}

/// Every use of one of these programs in the pages.
#[must_use]
pub fn written(tree: &Tree, programs: &[&str]) -> Vec<Written> {
    let mut found = Vec::new();
    for (path, page) in tree.ending(".md") {
        let mut continued = String::new();
        for line in markdown::lines(page) {
            let place = format!("{path}:{}", line.number);
            match line.code {
                Some(language) if SHELLS.contains(&language) => {
                    // Where answers are shown as well, a dollar marks what is typed.
                    let typed = line.text.trim_start().strip_prefix("$ ");
                    let text = if language == "text" || language == "console" {
                        typed
                    } else {
                        typed.or(Some(line.text))
                    };
                    let Some(text) = text.or((!continued.is_empty()).then_some(line.text)) else { continue };
                    continued.push_str(text);
                    if continued.ends_with('\\') {
                        continued.pop();
                        continue;
                    }
                    let commands = split(&std::mem::take(&mut continued));
                    found.extend(commands.into_iter().map(|words| Written {
                        place: place.clone(),
                        words,
                        whole: true,
                    }));
                }
                Some(_) => {}
                None => {
                    let spans = line.text.split('`').skip(1).step_by(2);
                    let commands = spans.filter_map(|span| split(span).into_iter().next());
                    found.extend(commands.map(|words| Written { place: place.clone(), words, whole: false }));
                }
            }
        }
    }
    found.retain(|command| programs.contains(&command.words[0].as_str()));
    found
}

/// The commands of one line of shell: words without quotes, the program without its folder, no empty command.
fn split(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote, mut quoted) = (String::new(), None, false);
    for c in line.chars().chain([' ']) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '"' | '\'') => (quote, quoted) = (Some(c), true),
            (None, ' ' | '|' | ';' | '&' | '(' | ')') => {
                if !word.is_empty() || quoted {
                    commands.last_mut().expect("there is always one").push(std::mem::take(&mut word));
                    quoted = false;
                }
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            (None, '#') if word.is_empty() => break,
            (None, c) => word.push(c),
        }
    }
    commands.into_iter().filter_map(command).collect()
}

/// Leaves out settings before a command and redirections after it.
fn command(words: Vec<String>) -> Option<Vec<String>> {
    let assigns = |word: &String| {
        word.split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    };
    let mut words: Vec<String> = words.into_iter().skip_while(assigns).collect();
    if let Some(at) = words.iter().position(|word| word.starts_with(['>', '<']) || word.starts_with("2>")) {
        words.truncate(at);
    }
    let program = words.first_mut()?;
    *program = program.rsplit('/').next().unwrap_or_default().to_owned();
    Some(words)
}

/// Each `make` in the pages names targets that exist.
#[must_use]
pub fn make_targets_exist(tree: &Tree) -> Vec<String> {
    let targets = makefile::targets(tree.text("Makefile").unwrap_or_default());
    let mut found = Vec::new();
    for used in written(tree, &["make"]) {
        let named = used.words[1..].iter().filter(|word| !word.contains('=') && !word.starts_with('-'));
        found.extend(
            named
                .filter(|target| !targets.contains(target.as_str()))
                .map(|target| format!("{}: make has no target {target}", used.place)),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line).into_iter().map(|command| command.join("·")).collect()
    }

    #[test]
    fn lines_are_split_as_a_shell_does() {
        assert_eq!(words("target/debug/muster group list  # all"), ["muster·group·list"]);
        assert_eq!(words("A=1 make run | tee x && ls"), ["make·run", "tee·x", "ls"]);
        assert_eq!(words("muster set 'a b' \"#c\" '' > out"), ["muster·set·a b·#c·"]);
        assert_eq!(words("x=$(muster token create)"), ["muster·token·create"]);
        assert_eq!(words("# only words"), Vec::<String>::new());
    }

    #[test]
    fn commands_are_found_in_blocks_and_in_sentences() {
        let page = "Say `muster status`, not `mustered`.\n```sh\nmuster apply \\\n  -f x.yaml\n```\n```yaml\nmuster: x\n```\n\
            ```console\n$ muster wait\nmuster is here\n```\n";
        let found = written(&Tree::of(&[("README.md", page)]), &["muster"]);
        let brief: Vec<(String, bool)> = found.iter().map(|w| (w.words.join(" "), w.whole)).collect();
        let expected = [("muster status", false), ("muster apply -f x.yaml", true), ("muster wait", true)];
        assert_eq!(brief, expected.map(|(words, whole)| (words.to_owned(), whole)));
        assert_eq!(found[1].place, "README.md:4");
    }

    #[test]
    fn unknown_targets_are_found() {
        let tree = Tree::of(&[
            ("Makefile", "run: ## x\n"),
            ("README.md", "`make run`\n`make fun`\n```sh\nmake run rum\n```\n"),
        ]);
        let expected = ["README.md:2: make has no target fun", "README.md:4: make has no target rum"];
        assert_eq!(make_targets_exist(&tree), expected);
    }
}
