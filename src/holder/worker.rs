//! A process in the target's cgroup, for what the kernel counts there.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};

use super::cgroup::Cgroup;
use super::event::Clean;
use super::frame::{Lost, Refusal};
use super::leash::{self, LastResort};
use super::sys::{self, Side};

/// Dropping it ends the process.
pub struct Worker {
    pid: Pid,
    pidfd: OwnedFd,
    gone: bool,
}

/// What a worker is bound to, inside the worker.
pub struct Tether<'a> {
    target: &'a OwnedFd,
}

impl Tether<'_> {
    /// Sleeps, and ends this process when the target ends: a worker must not keep a dead container's cgroup
    /// alive, even while its holder is stopped.
    pub fn sleep(&self, length: Duration) {
        let mut target = [PollFd::new(self.target, PollFlags::IN)];
        match poll(&mut target, Some(&leash::timespec(length))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => sys::exit_now(0),
            Err(_) => sys::exit_now(1),
        }
    }
}

impl Worker {
    /// Forks a process that joins these cgroups and then does `work`, which ends only with the process.
    ///
    /// # Guarantees
    /// The worker dies with its holder (PDEATHSIG), with the target, and at the holder's last resort, whichever
    /// comes first; all three are in place before it joins or does anything.
    ///
    /// # Errors
    /// It could not be bound or could not join. It is gone then.
    pub fn start(
        joins: &[File],
        last_resort: LastResort,
        target: &OwnedFd,
        work: impl FnOnce(&Tether<'_>) -> std::io::Result<std::convert::Infallible>,
    ) -> Result<Self, Refusal> {
        let fail = |what: &str, error: std::io::Error| Refusal::new(format!("cannot start a worker: {what}: {error}"));
        let holder = rustix::process::getpid().as_raw_nonzero().get();
        let (mut ready, mut readied) = std::io::pipe().map_err(|error| fail("pipe", error))?;
        match sys::fork().map_err(|error| fail("fork", error))? {
            Side::Child => {
                drop(ready);
                let bound = leash::die_with(holder).and_then(|()| last_resort.again());
                let joined = bound.map_err(|refusal| refusal.to_string()).and_then(|()| join(joins));
                let message = joined.as_ref().err().cloned().unwrap_or_default();
                if readied.write_all(message.as_bytes()).is_err() || joined.is_err() {
                    sys::exit_now(1);
                }
                drop(readied);
                let tether = Tether { target };
                tether.sleep(Duration::ZERO);
                let Err(error) = work(&tether);
                sys::exit_now(error.raw_os_error().unwrap_or(1))
            }
            Side::Parent(pid) => {
                drop(readied);
                let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| {
                    // Without a pidfd it cannot be watched; it is our child, so its pid is still its own.
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    fail("pidfd", error.into())
                })?;
                let mut worker = Worker { pid, pidfd, gone: false };
                let mut message = String::new();
                ready.read_to_string(&mut message).map_err(|error| fail("pipe", error))?;
                if !message.is_empty() || worker.died().is_some() {
                    return Err(Refusal::new(format!("cannot start a worker in the target's cgroup: {message}")));
                }
                Ok(worker)
            }
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub fn pidfd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How it ended, if it has.
    pub fn died(&mut self) -> Option<String> {
        if self.gone {
            return Some("it was ended".into());
        }
        let (_, status) = waitpid(Some(self.pid), WaitOptions::NOHANG).ok()??;
        self.gone = true;
        Some(match (status.terminating_signal(), status.exit_status()) {
            (Some(signal), _) => format!("killed by signal {signal}"),
            (None, code) => format!("gone with code {}", code.unwrap_or(-1)),
        })
    }

    /// Kills it and waits until it is gone, memory, threads and cgroup included.
    ///
    /// # Errors
    /// The kernel's, and then it may still be there.
    pub fn end(&mut self) -> std::io::Result<()> {
        if self.gone {
            return Ok(());
        }
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        while waitpid(Some(self.pid), WaitOptions::empty()).is_err_and(|error| error == rustix::io::Errno::INTR) {}
        self.gone = true;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Where even this fails the worker still dies with this process.
        let _ = self.end();
    }
}

fn join(joins: &[File]) -> Result<(), String> {
    joins.iter().try_for_each(|mut procs| procs.write_all(b"0").map_err(|error| error.to_string()))
}

/// Ends them all and reads back that none is left in the target's cgroup.
pub fn clear(workers: &mut [Worker], cgroup: &Cgroup) -> Clean {
    let mut troubles: Vec<String> =
        workers.iter_mut().filter_map(|worker| worker.end().err()).map(|error| error.to_string()).collect();
    match cgroup.processes() {
        Ok(processes) => {
            let left = workers.iter().map(Worker::pid).filter(|pid| processes.contains(pid));
            troubles.extend(left.map(|pid| format!("worker {pid} is still in the target's cgroup")));
        }
        // A cgroup that was removed has nobody in it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
        Err(error) => troubles.push(format!("cannot read the target's cgroup: {error}")),
    }
    if troubles.is_empty() {
        let pids: Vec<String> = workers.iter().map(|worker| worker.pid().to_string()).collect();
        Clean { clean: true, says: format!("worker {} gone from the target's cgroup", pids.join(", ")) }
    } else {
        Clean { clean: false, says: troubles.join("; ") }
    }
}

/// The first of them that ended before its time.
///
/// # Errors
/// One did.
pub fn all_alive(workers: &mut [Worker]) -> Result<(), Lost> {
    let dead = workers.iter_mut().find_map(|worker| Some((worker.pid(), worker.died()?)));
    dead.map_or(Ok(()), |(pid, how)| Err(Lost::new(format!("worker {pid} in the target's cgroup was {how}"))))
}
