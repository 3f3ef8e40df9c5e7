use clap::Args;
use clap_complete::Shell;

use super::{Exit, Failure, Output};

/// Write completions for a shell
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub fn run(self, output: &mut Output) -> Result<Exit, Failure> {
        let mut written = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(None), "gameday", &mut written);
        output.text(&String::from_utf8_lossy(&written))?;
        Ok(Exit::Passed)
    }
}
