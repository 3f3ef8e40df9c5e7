//! Starts holders, from one thread that never ends: a holder dies with the thread that started it.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::mpsc::UnboundedSender;

use crate::holder::{Check, Event, Order};

use super::proc;

/// What is heard of a holder. Each holder says a line a second, so this needs no bound.
#[derive(Debug)]
pub enum Heard {
    /// It cannot be started, and why; or how it is told.
    Started(Result<Started, String>),
    Said(Event),
    /// It is gone. Where it had said no last word: with the processes that it, or another that is gone, has left.
    Ended(Vec<i32>),
}

/// How a holder is told.
#[derive(Debug)]
pub struct Started {
    /// Closing it is the order to end.
    pub stdin: ChildStdin,
    /// By which it is killed if it does not.
    pub process: OwnedFd,
}

pub struct Spawner {
    orders: mpsc::Sender<(String, Order)>,
}

impl Spawner {
    /// # Errors
    /// No thread can be made.
    pub fn start(heard: UnboundedSender<(String, Heard)>) -> std::io::Result<Self> {
        let (orders, taken) = mpsc::channel::<(String, Order)>();
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for (name, order) in taken {
                let started = start(&order);
                let (told, child) = match started {
                    Ok((started, child)) => (Ok(started), Some(child)),
                    Err(error) => (Err(format!("a holder cannot be started: {error}")), None),
                };
                // Nobody who hears is an agent that ends.
                let _ = heard.send((name.clone(), Heard::Started(told)));
                if let Some(child) = child {
                    let heard = heard.clone();
                    std::thread::spawn(move || listen(child, &name, &heard));
                }
            }
            // Only where the agent itself is gone.
        })?;
        Ok(Spawner { orders })
    }

    pub fn hold(&self, name: &str, order: Order) {
        // The thread never ends before this does.
        let _ = self.orders.send((name.to_owned(), order));
    }
}

fn start(order: &Order) -> std::io::Result<(Started, Child)> {
    let mut child = Command::new("/proc/self/exe")
        .arg("hold")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
    let mut line = serde_json::to_vec(order).map_err(std::io::Error::other)?;
    line.push(b'\n');
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    stdin.write_all(&line)?;
    Ok((Started { stdin, process }, child))
}

fn listen(mut child: Child, name: &str, heard: &UnboundedSender<(String, Heard)>) {
    let mut has_said_all = false;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(event) => {
                    has_said_all = matches!(event, Event::Refused { .. } | Event::Cleared { .. } | Event::Lost { .. });
                    let _ = heard.send((name.to_owned(), Heard::Said(event)));
                }
                Err(error) => tracing::warn!(injection = name, %error, line, "a holder said what is not understood"),
            }
        }
    }
    if let Err(error) = child.wait() {
        tracing::warn!(injection = name, %error, "a holder could not be waited for");
    }
    let left = if has_said_all { Vec::new() } else { proc::orphans_that_stay() };
    let _ = heard.send((name.to_owned(), Heard::Ended(left)));
}

/// What this node can hold, tried by a holder's own program.
///
/// # Errors
/// It could not be tried.
pub fn checks() -> Result<Vec<Check>, String> {
    let output = Command::new("/proc/self/exe").args(["hold", "--check"]).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))).collect()
}
