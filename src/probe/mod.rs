//! Samples of the steady state, one file a kind, and the [`Sampler`] that takes them on time.
//!
//! A sample says what was seen, and nothing of what follows from it: streaks, breaches and verdicts are the
//! engine's. What is the other side's doing is Bad; what is ours (no roots to verify with, no file descriptor,
//! no route out of this machine) is Blind, because it says nothing about the steady state.

pub mod alert;
mod connect;
pub mod http;
mod sampler;
pub mod tcp;
pub mod workload;

use std::io;

use jiff::Timestamp;

use crate::api::{Duration, Probe, says};
use crate::engine::steady::{Margin, Sample};

pub use sampler::{Clock, Sampler};
pub use workload::{ReadWorkload, Replicas};

/// A probe that can be asked.
#[derive(Debug)]
pub struct Prober {
    probe: Probe,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Http(http::Target),
    Tcp(tcp::Target),
    Workload(workload::Target),
}

impl Prober {
    /// The first https probe of a process reads the machine's root certificates, which takes some milliseconds.
    ///
    /// # Errors
    /// The probe is not exactly one of its kinds, or its target cannot be. Admission refuses both.
    pub fn new(probe: &Probe, read_workload: &ReadWorkload) -> Result<Self, String> {
        let target = match (&probe.http, &probe.tcp, &probe.workload) {
            (Some(http), None, None) => Target::Http(http::Target::new(&http.url)?),
            (None, Some(tcp), None) => Target::Tcp(tcp::Target::new(&tcp.address)?),
            (None, None, Some(workload)) => Target::Workload(workload::Target::new(workload, read_workload)),
            _ => return Err(says::ONE_PROBE.to_owned()),
        };
        Ok(Prober { probe: probe.clone(), target })
    }

    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Takes one sample.
    ///
    /// # Guarantees
    /// It takes no longer than the probe's timeout, whatever the other side does.
    pub async fn sample(&self, started: Timestamp) -> Sample {
        let Probe { expect, timeout, .. } = &self.probe;
        match &self.target {
            Target::Http(target) => http::sample(target, expect, *timeout, started).await,
            Target::Tcp(target) => tcp::sample(target, expect, *timeout, started).await,
            Target::Workload(target) => workload::sample(target, expect, *timeout, started).await,
        }
    }
}

/// Why there was no answer, and whose doing it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Any client would have seen the same.
    Theirs(String),
    /// This process, or the machine it runs on, could not ask.
    Ours(String),
}

/// Error numbers that the standard library has no stable name for, as Linux counts them.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;

impl NoAnswer {
    fn from_io(error: &io::Error) -> Self {
        use NoAnswer::{Ours, Theirs};
        if let Some(ENFILE | EMFILE | ENOBUFS) = error.raw_os_error() {
            return Ours(format!("this machine could not ask: {error}"));
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Theirs("connection refused".to_owned()),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Theirs("connection reset".to_owned()),
            io::ErrorKind::ConnectionAborted => Theirs("connection aborted".to_owned()),
            io::ErrorKind::UnexpectedEof => Theirs("connection closed".to_owned()),
            io::ErrorKind::TimedOut => Theirs("connection timed out".to_owned()),
            io::ErrorKind::HostUnreachable => Theirs("host unreachable".to_owned()),
            io::ErrorKind::NetworkUnreachable => Ours("this machine has no route there".to_owned()),
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied | io::ErrorKind::OutOfMemory => {
                Ours(format!("this machine could not ask: {error}"))
            }
            _ => Theirs(short(&error.to_string())),
        }
    }
}

/// How far a time stayed from its limit.
fn margin(limit: Option<Duration>, took_ms: f64) -> Option<Margin> {
    let limit = limit?.as_millis() as f64;
    Some(Margin { left: limit - took_ms, limit, unit: "ms" })
}

/// "412 ms, more than 300ms", where it is.
fn too_slow(limit: Option<Duration>, took_ms: f64) -> Option<String> {
    let limit = limit?;
    let over = took_ms - limit.as_millis() as f64;
    match over {
        over if over <= 0.0 => None,
        over if over < 1.0 => Some(format!("{took_ms:.1} ms, more than {limit}")),
        _ => Some(format!("{} ms, more than {limit}", shown(took_ms))),
    }
}

/// Milliseconds as a person reads them: whole, and tenths below one.
fn shown(ms: f64) -> String {
    if ms < 0.95 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

/// Characters of another side's words that are kept: the run's record is bounded.
const SHORT: usize = 160;

fn short(text: &str) -> String {
    match text.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
