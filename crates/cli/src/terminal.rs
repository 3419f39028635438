//! The three streams of a process and what is known about them.

use std::io::{self, BufRead, BufWriter, IsTerminal as _, Read as _, Write};

use crate::failure::{Failure, exit};
use crate::view::style::Style;

/// Longest answer to a question, in bytes.
const MAX_ANSWER_BYTES: u64 = 64;

/// Where data and notices go and answers come from.
pub struct Terminal {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    input: Box<dyn BufRead>,
    traits: Traits,
}

/// What the streams are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traits {
    /// Standard output is a terminal.
    pub out_is_terminal: bool,
    /// Standard error is a terminal.
    pub err_is_terminal: bool,
    /// Standard input is a terminal: somebody can answer.
    pub in_is_terminal: bool,
    /// The user asked for no colours, or the terminal has none.
    pub no_colour: bool,
}

impl Terminal {
    /// The streams of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let traits = Traits {
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
            in_is_terminal: io::stdin().is_terminal(),
            no_colour: set("NO_COLOR") || dumb,
        };
        Self::new(BufWriter::new(io::stdout()), io::stderr(), io::BufReader::new(io::stdin()), traits)
    }

    /// Any streams.
    pub fn new(
        out: impl Write + 'static,
        err: impl Write + 'static,
        input: impl BufRead + 'static,
        traits: Traits,
    ) -> Self {
        Self { out: Box::new(out), err: Box::new(err), input: Box::new(input), traits }
    }

    /// How to write on standard output.
    pub(crate) fn style(&self) -> Style {
        Style::now(self.traits.out_is_terminal && !self.traits.no_colour)
    }

    /// Whether progress may be drawn on standard error.
    pub(crate) fn draws_progress(&self) -> bool {
        self.traits.err_is_terminal
    }

    /// Writes data.
    pub(crate) fn data(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes()).map_err(Failure::Output)
    }

    /// Writes a line that is no data.
    pub(crate) fn notice(&mut self, text: &str) -> Result<(), Failure> {
        self.flush()?;
        writeln!(self.err, "{text}").map_err(Failure::Output)
    }

    /// Sees to it that data has left the process.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::Output)
    }

    /// Reads standard input, at most `limit` bytes of it and one more.
    pub(crate) fn read_input(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.input).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Asks before something is gone for good.
    pub(crate) fn confirm(&mut self, what: &str) -> Result<(), Failure> {
        if !self.traits.in_is_terminal {
            return Err(Failure::Usage(format!(
                "{what}: nobody can be asked here (standard input is no terminal); say --yes"
            )));
        }
        self.flush()?;
        let mut answer = String::new();
        write!(self.err, "{what}? [y/N] ")
            .and_then(|()| self.err.flush())
            .and_then(|()| (&mut self.input).take(MAX_ANSWER_BYTES).read_line(&mut answer))
            .map_err(Failure::Output)?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::Declined),
        }
    }

    /// Says why it went wrong.
    pub(crate) fn report(&mut self, failure: &Failure) {
        // A failure that cannot be reported is still told by the exit code.
        let _ = self.out.flush();
        let colour = self.traits.err_is_terminal && !self.traits.no_colour;
        if let Some(text) = failure.render(&Style::now(colour)) {
            let _ = self.err.write_all(text.as_bytes());
        }
    }

    /// Whether clap may colour its texts.
    pub(crate) fn clap_colour(&self) -> clap::ColorChoice {
        if self.traits.no_colour { clap::ColorChoice::Never } else { clap::ColorChoice::Auto }
    }

    /// Prints what clap has to say: help and version as data, mistakes as notices.
    pub(crate) fn clap_answer(&mut self, error: &clap::Error) -> u8 {
        let is_data = !error.use_stderr();
        let (stream, terminal): (&mut dyn Write, bool) = if is_data {
            (&mut self.out, self.traits.out_is_terminal)
        } else {
            (&mut self.err, self.traits.err_is_terminal)
        };
        let text = error.render();
        let colour = terminal && !self.traits.no_colour;
        let text = if colour { text.ansi().to_string() } else { text.to_string() };
        // A reader that left early is no failure, and there is nowhere else to tell.
        let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
        if is_data { exit::OK } else { exit::USAGE }
    }
}
