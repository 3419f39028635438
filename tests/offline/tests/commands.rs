//! What people type: help texts, the page of all options, and the commands that the pages show.

use std::fmt::Write as _;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory as _};
use offline::rules::commands::{Written, written};
use offline::{Tree, golden};

/// Columns of the golden help texts.
const WIDTH: usize = 100;

/// What stands above the options in docs/configuration.md.
const CONFIGURATION: &str = "\
# Configuration

Made from the code; `UPDATE=1 cargo test --package offline` writes it again.

Every option has a flag and, where the table names one, an environment variable. A TOML file named by `--config` or
`MUSTER_CONFIG` may hold options as well; its keys are the long names of the flags. A flag wins over the environment, the
environment over the file, the file over the default.

";

/// The programs as people call them.
fn programs() -> Vec<Command> {
    let configured = runtime::config::with_config_flag;
    vec![server::command(), configured(agent::cli::Cli::command()), cli::args::Cli::command()]
}

/// Programs that run for long: their help texts are held here, those of `muster` beside its code.
fn long_running() -> Vec<Command> {
    programs().into_iter().filter(|program| program.get_name() != "muster").collect()
}

/// A command that reads the same on every machine: a fixed width, no values of variables, no version.
fn steady(command: Command) -> Command {
    let command = command.term_width(WIDTH).max_term_width(WIDTH).mut_args(|arg| arg.hide_env_values(true));
    command.mut_subcommands(steady)
}

/// The long help of a command and of all below it.
fn help(command: &mut Command, path: &str, text: &mut String) {
    writeln!(text, "$ {path} --help\n{}", command.render_long_help()).expect("a String takes all");
    for name in visible(command) {
        let below = command.find_subcommand_mut(&name).expect("it was just listed");
        help(below, &format!("{path} {name}"), text);
    }
}

fn visible(command: &Command) -> Vec<String> {
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help");
    shown.map(|c| c.get_name().to_owned()).collect()
}

/// What is wrong with a command in a page; nothing when it can be typed.
fn wrong(program: &Command, used: &Written) -> Option<String> {
    if used.whole {
        let error = program.clone().try_get_matches_from(&used.words).err()?;
        let shows = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion].contains(&error.kind());
        return (!shows).then(|| error.to_string().lines().next().unwrap_or_default().to_owned());
    }
    // A mention may leave arguments out, but what it names must be there.
    let mut command = program.clone();
    command.build();
    let mut flags: Vec<String> = Vec::new();
    let mut last = &command;
    let mut words = used.words[1..].iter().peekable();
    while let Some(below) = words.peek().and_then(|word| last.find_subcommand(word)) {
        last = below;
        words.next();
    }
    flags.extend(last.get_arguments().filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")));
    flags.push("--version".to_owned());
    let rest: Vec<&String> = words.collect();
    let stray = rest
        .first()
        .filter(|word| last.has_subcommands() && word.starts_with(|c: char| c.is_ascii_lowercase()));
    if let Some(word) = stray {
        return Some(format!("{} has no command {word}", last.get_bin_name().unwrap_or(last.get_name())));
    }
    let unknown = rest.iter().find(|word| {
        word.starts_with("--") && !flags.iter().any(|flag| Some(flag.as_str()) == word.split('=').next())
    })?;
    Some(format!("{} has no flag {unknown}", last.get_bin_name().unwrap_or(last.get_name())))
}

/// Every command in the pages that cannot be typed.
fn wrong_commands(tree: &Tree, programs: &[Command]) -> Vec<String> {
    let names: Vec<&str> = programs.iter().map(Command::get_name).collect();
    let mut found = Vec::new();
    for used in written(tree, &names) {
        let program = programs.iter().find(|program| program.get_name() == used.words[0]);
        let reason = program.and_then(|program| wrong(program, &used));
        found.extend(reason.map(|reason| format!("{}: {}: {reason}", used.place, used.words.join(" "))));
    }
    found
}

#[test]
fn help_texts_are_as_reviewed() {
    for program in long_running() {
        let name = program.get_name().to_owned();
        let mut command = steady(program);
        command.build();
        let mut text = String::new();
        help(&mut command, &name, &mut text);
        let text: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        golden::compare(&format!("tests/offline/golden/{name}.txt"), &text);
    }
}

#[test]
fn the_page_of_options_is_what_the_programs_take() {
    // What each command of `muster` takes is a matter of its help; here stands what all of them share.
    let shared = Command::new("muster")
        .about("Options of every command.")
        .args(cli::args::Cli::command().get_arguments());
    let all = long_running().into_iter().chain([shared]);
    let tables: String = all.map(|program| runtime::config::markdown(&program)).collect();
    golden::compare("docs/configuration.md", &format!("{CONFIGURATION}{}\n", tables.trim_end()));
}

#[test]
fn programs_are_put_together_well() {
    for program in programs() {
        program.debug_assert();
    }
}

#[test]
fn commands_in_pages_can_be_typed() {
    let found = wrong_commands(&Tree::read(), &programs());
    assert!(found.is_empty(), "{} command(s) cannot be typed:\n  {}", found.len(), found.join("\n  "));
}

#[test]
fn commands_that_cannot_be_typed_are_found() {
    let program = Command::new("muster").subcommand(
        Command::new("group")
            .subcommand(Command::new("list").arg(clap::Arg::new("long").long("long").num_args(0)))
            .subcommand(Command::new("show").arg(clap::Arg::new("path").required(true))),
    );
    let page = "`muster group list --long`, `muster group show`, `muster group lost`, `muster group list --short`\n\
        ```sh\nmuster group show /a\nmuster group show\nmuster grp\nmuster --help\n```\n";
    let found = wrong_commands(&Tree::of(&[("README.md", page)]), &[program]);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0].starts_with("README.md:1: muster group lost"), "{found:?}");
    assert!(found[1].starts_with("README.md:1: muster group list --short"), "{found:?}");
    assert!(found[2].starts_with("README.md:4: muster group show"), "{found:?}");
    assert!(found[3].starts_with("README.md:5: muster grp"), "{found:?}");
}
