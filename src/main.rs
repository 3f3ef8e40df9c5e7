use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Verb {
    Hold(gameday::holder::HoldArgs),
}

fn main() -> ExitCode {
    let Verb::Hold(args) = Verb::parse();
    gameday::holder::hold(args)
}
