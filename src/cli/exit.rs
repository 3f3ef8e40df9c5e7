//! How the program ends.

use std::io::Write;

use super::complaint::Complaints;

/// The program's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Passed,
    Failed,
    /// Usage, or a file that cannot be used.
    Invalid,
    Inconclusive,
    Refused,
    /// No connection, or no operator.
    Alone,
    /// Whoever read the output has gone: as if SIGPIPE had ended the program.
    Unread,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Passed => 0,
            Exit::Failed => 1,
            Exit::Invalid => 2,
            Exit::Inconclusive => 3,
            Exit::Refused => 4,
            Exit::Alone => 5,
            Exit::Unread => 141,
        }
    }
}

#[cfg(target_os = "linux")]
impl From<crate::holder::Exit> for Exit {
    fn from(exit: crate::holder::Exit) -> Self {
        match exit {
            crate::holder::Exit::Cleared => Exit::Passed,
            crate::holder::Exit::NotClean => Exit::Failed,
            crate::holder::Exit::NotUnderstood => Exit::Invalid,
            crate::holder::Exit::Lost => Exit::Inconclusive,
            crate::holder::Exit::Refused => Exit::Refused,
        }
    }
}

/// What went wrong, in words for the person, and how the program ends.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    said: anyhow::Error,
}

impl Failure {
    pub fn new(exit: Exit, said: impl Into<anyhow::Error>) -> Self {
        Failure { exit, said: said.into() }
    }

    pub fn invalid(said: impl std::fmt::Display) -> Self {
        Failure { exit: Exit::Invalid, said: anyhow::anyhow!("{said}") }
    }

    pub fn refused(said: impl std::fmt::Display) -> Self {
        Failure { exit: Exit::Refused, said: anyhow::anyhow!("{said}") }
    }

    pub fn alone(said: impl std::fmt::Display) -> Self {
        Failure { exit: Exit::Alone, said: anyhow::anyhow!("{said}") }
    }

    /// The same, with what it means said first.
    pub fn context(self, said: impl std::fmt::Display) -> Self {
        Failure { exit: self.exit, said: self.said.context(said.to_string()) }
    }

    /// Writes it to standard error.
    pub fn tell(&self) -> Exit {
        if self.exit != Exit::Unread {
            // Nothing can be said where standard error is closed.
            let _ = writeln!(anstream::stderr(), "{}", self.to_string().trim_end());
        }
        self.exit
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.said)
    }
}

impl From<Complaints> for Failure {
    fn from(complaints: Complaints) -> Self {
        Failure::invalid(complaints)
    }
}

/// Only writing to standard output fails so: files are read with a sentence of their own.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::BrokenPipe { Exit::Unread } else { Exit::Invalid };
        Failure::new(exit, anyhow::Error::new(error).context("writing the output"))
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            // What the API server says of a kind that it does not know, with and without its group.
            kube::Error::Api(status)
                if status.code == 404 && (status.reason != "NotFound" || status.message.contains("the requested resource")) =>
            {
                Failure::alone("this cluster does not know game days: gameday install | kubectl apply -f -")
            }
            kube::Error::Api(status) if status.code == 403 => Failure::refused(status.message),
            kube::Error::Api(status) if status.code == 401 => Failure::alone(format!("not logged in: {}", status.message)),
            kube::Error::Api(status) if status.code >= 500 || status.code == 429 => Failure::alone(status.message),
            kube::Error::Api(status) => Failure::invalid(status.message),
            other => Failure::alone(format!("no answer from the cluster: {}", innermost(&other))),
        }
    }
}

/// The last cause: "Connection refused" says more than "service error: client error (Connect)".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
