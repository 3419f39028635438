//! `musterd`: the services of Muster, one by one or all in one process.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::main()
}
