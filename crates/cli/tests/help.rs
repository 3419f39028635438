//! Every help text, held against a golden file; `UPDATE=1` rewrites it and review reads the diff.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

const GOLDEN: &str = "tests/golden/help.txt";
const WIDTH: usize = 100;

fn render(command: &mut Command, name: &str, text: &mut String) {
    let help = command.clone().bin_name(name).term_width(WIDTH).render_long_help();
    writeln!(text, "$ {name} --help\n{help}").expect("a string takes all");
    let below: Vec<String> = command.get_subcommands().map(|it| it.get_name().to_owned()).collect();
    for sub in below {
        let command = command.find_subcommand_mut(&sub).expect("it was listed");
        render(command, &format!("{name} {sub}"), text);
    }
}

#[test]
fn help_is_as_reviewed() {
    let mut command = cli::args::Cli::command();
    command.build();
    let mut text = String::new();
    render(&mut command, "muster", &mut text);
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    if std::env::var_os("UPDATE").is_some_and(|update| !update.is_empty() && update != "0") {
        std::fs::write(&golden, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    let different = expected.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(expected == text, "{GOLDEN} is out of date from line {different:?}; UPDATE=1 rewrites it");
}

#[test]
fn every_command_has_examples() {
    fn check(command: &Command, path: &str) {
        let mut below = command.get_subcommands().peekable();
        if below.peek().is_none() {
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:\n  muster "), "{path} has no example");
        }
        below.for_each(|sub| check(sub, &format!("{path} {}", sub.get_name())));
    }
    check(&cli::args::Cli::command(), "muster");
    cli::args::Cli::command().debug_assert();
}
