//! The `concordat` binary: hands its arguments to the library and its failure to the shell.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(concordat_cli::main(std::env::args_os().collect()))
}
