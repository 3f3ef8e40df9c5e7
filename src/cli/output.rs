//! Standard output, colours taken out where there is no terminal. A closed pipe is an error like any other, not
//! a panic.

use std::io::{self, Write};

/// Where a verb writes what it was asked for.
pub struct Output(Box<dyn Write>);

impl Output {
    pub fn stdout() -> Self {
        Output(Box::new(anstream::stdout().lock()))
    }

    pub fn line(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.0, "{text}")
    }

    /// Text as it is, nothing added.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.flush()
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
