//! One command at work: a server, a terminal, and the format that was asked for.

use prost::{Message, Name};

use crate::args::Format;
use crate::client::Client;
use crate::failure::Failure;
use crate::terminal::Terminal;
use crate::view::style::Style;

/// What commands work with.
pub(crate) struct Session<'a> {
    pub(crate) client: Client,
    pub(crate) terminal: &'a mut Terminal,
    pub(crate) format: Format,
}

impl Session<'_> {
    /// Prints an answer: as the view shows it, or in the JSON form of its message.
    pub(crate) fn show<M: Message + Name>(
        &mut self,
        message: &M,
        view: impl FnOnce(&M, Style) -> String,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => view(message, self.terminal.style()),
            Format::Json => {
                let json = wire::json::to_json(message);
                format!("{json:#}\n")
            }
            Format::Yaml => yaml(&wire::json::to_json(message))?,
        };
        self.terminal.data(&text)
    }

    /// Prints one of many answers that come over time: one line of JSON, one document of YAML.
    pub(crate) fn show_event<M: Message + Name>(
        &mut self,
        message: &M,
        view: impl FnOnce(&M, Style) -> String,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => view(message, self.terminal.style()),
            Format::Json => format!("{}\n", wire::json::to_json(message)),
            Format::Yaml => format!("---\n{}", yaml(&wire::json::to_json(message))?),
        };
        self.terminal.data(&text)?;
        self.terminal.flush()
    }

    /// Says something that is no data; silent where a program reads the output.
    pub(crate) fn notice(&mut self, text: &str) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.terminal.notice(text),
            Format::Json | Format::Yaml => Ok(()),
        }
    }

    /// Prints a list, or says on standard error that there is nothing in it.
    pub(crate) fn show_list<M: Message + Name>(
        &mut self,
        message: &M,
        empty: Option<&str>,
        view: impl FnOnce(&M, Style) -> String,
    ) -> Result<(), Failure> {
        match empty {
            Some(sentence) if self.format == Format::Table => self.terminal.notice(sentence),
            Some(_) | None => self.show(message, view),
        }
    }
}

/// A JSON value as YAML.
pub(crate) fn yaml(value: &serde_json::Value) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(value)
        .map_err(|error| Failure::Answer(format!("it has no YAML form: {error}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
