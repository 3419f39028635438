//! `muster-agent`: see `muster-agent --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let (cli, tables) = runtime::config::parse_with_tables(agent::cli::TABLES);
    match agent::cli::main(cli, &tables) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Nothing better is left to do if standard error is closed.
            let _written = writeln!(std::io::stderr(), "muster-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
