//! The options of a command as Markdown, so that the documentation is made from the code.

use std::fmt::Write;

use clap::{Arg, Command};

/// All options of the command and its subcommands: a heading and a table for each (sub)command that has
/// options of its own. Hidden ones and `--help`, `--version` are left out.
#[must_use]
pub fn markdown(command: &Command) -> String {
    let mut text = String::new();
    section(&mut text, command, command.get_name(), 2);
    text
}

fn section(text: &mut String, command: &Command, path: &str, level: usize) {
    writeln!(text, "{} `{path}`\n", "#".repeat(level)).expect("invariant: writing to a String succeeds");
    if let Some(about) = command.get_about() {
        writeln!(text, "{about}\n").expect("invariant: writing to a String succeeds");
    }
    let mut options = command.get_arguments().filter(|arg| shown(arg)).peekable();
    if options.peek().is_some() {
        text.push_str("| Option | Environment | Default | Meaning |\n| --- | --- | --- | --- |\n");
        for arg in options {
            row(text, arg);
        }
        text.push('\n');
    }
    for subcommand in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        section(text, subcommand, &format!("{path} {}", subcommand.get_name()), level + 1);
    }
}

fn shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")
}

fn row(text: &mut String, arg: &Arg) {
    let values: Vec<String> = match arg.get_action().takes_values() {
        true => arg.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>")).collect(),
        false => Vec::new(),
    };
    let name = match arg.get_long() {
        Some(long) => std::iter::once(format!("--{long}")).chain(values).collect::<Vec<_>>().join(" "),
        None => values.join(" "),
    };
    let env = arg.get_env().map(|env| format!("`{}`", super::lossy(env))).unwrap_or_default();
    let defaults: Vec<String> = match arg.get_action().takes_values() {
        true => arg.get_default_values().iter().map(|value| format!("`{}`", super::lossy(value))).collect(),
        false => Vec::new(),
    };
    let default = if arg.is_required_set() { "required".to_owned() } else { defaults.join(", ") };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let choices: Vec<String> = match arg.get_action().takes_values() {
        true => arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect(),
        false => Vec::new(),
    };
    let choices = if choices.is_empty() { String::new() } else { format!(" One of {}.", choices.join(", ")) };
    let meaning = format!("{}{choices}", help.replace('\n', " ").replace('|', "\\|"));
    writeln!(text, "| `{name}` | {env} | {default} | {meaning} |")
        .expect("invariant: writing to a String succeeds");
}
