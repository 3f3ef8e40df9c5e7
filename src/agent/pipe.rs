//! The pipe by which a holder is told. Closing it, which is dropping this, is the order to end.

use std::io::{ErrorKind, Write};
use std::process::ChildStdin;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// What a holder has not read. The longest order fits four times; one that reads nothing all that while is stuck.
const UNSENT_MAX: usize = 4 * 1024 * 1024;

/// It never waits: a holder that is stuck must not keep its agent from ending others.
pub struct Pipe {
    stdin: ChildStdin,
    /// Not taken by the kernel yet.
    unsent: Vec<u8>,
}

impl Pipe {
    /// # Errors
    /// It cannot be made one that does not wait.
    pub fn new(stdin: ChildStdin) -> std::io::Result<Self> {
        fcntl_setfl(&stdin, fcntl_getfl(&stdin)? | OFlags::NONBLOCK)?;
        Ok(Pipe { stdin, unsent: Vec::new() })
    }

    /// # Errors
    /// The holder has not read what it was told before: it is stuck.
    pub fn tell(&mut self, line: &[u8]) -> Result<(), &'static str> {
        if self.unsent.len() + line.len() > UNSENT_MAX {
            return Err("its holder does not read");
        }
        self.unsent.extend_from_slice(line);
        self.unsent.push(b'\n');
        self.send();
        Ok(())
    }

    /// As much as there is room for; called again and again.
    pub fn send(&mut self) {
        while !self.unsent.is_empty() {
            match self.stdin.write(&self.unsent) {
                Ok(taken) if taken > 0 => {
                    self.unsent.drain(..taken);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Full, or nobody reads any more: that is heard of otherwise.
                Ok(_) | Err(_) => return,
            }
        }
    }
}
