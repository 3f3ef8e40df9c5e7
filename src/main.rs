use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(gameday::cli::main(std::env::args_os()).code())
}
