//! Pause: every thread of the target is traced and stopped. Nothing is left in a cgroup or a process that would
//! keep it so: when this process ends the kernel lets them all run. System calls that were interrupted return
//! EINTR, as after any stop.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::cgroup::{Cgroup, Controller};
use super::event::{Bite, Clean};
use super::frame::{Ground, Hold, Lost, Refusal};
use super::order::{Pause, PauseScope};
use super::ptrace::{self, News};
use super::{privilege, sys};

/// How often newcomers are looked for: an exec probe of the kubelet runs no longer than this.
const RESCAN_EVERY: Duration = Duration::from_millis(50);

/// Threads that fork faster than they can be caught are caught at the next look.
const PASSES_MAX: usize = 100;

/// A thread stops at once, or when its system call lets it; in this time those that can have.
const STOP_WITHIN: Duration = Duration::from_millis(500);

pub struct PauseHold {
    scope: Scope,
    threads: BTreeMap<i32, State>,
    /// Something became of a traced thread.
    children: Option<OwnedFd>,
    looked: Duration,
}

enum Scope {
    Process(i32),
    Cgroup(Cgroup),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asked,
    Stopped,
}

pub fn check() -> Result<(), String> {
    privilege::need(CapabilitySet::SYS_PTRACE, "SYS_PTRACE", "stopping threads")?;
    match std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(scope) if scope.trim() == "3" => Err("kernel.yama.ptrace_scope is 3: nobody may trace here".into()),
        Ok(_) => Ok(()),
        // No yama, no scope.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot read kernel.yama.ptrace_scope: {error}")),
    }
}

pub fn prepare(order: &Pause, ground: &Ground<'_>) -> Result<PauseHold, Refusal> {
    check().map_err(Refusal::new)?;
    let natural = if ground.target.whole { PauseScope::Cgroup } else { PauseScope::Process };
    let scope = match order.scope.unwrap_or(natural) {
        PauseScope::Process => Scope::Process(ground.target.pid),
        PauseScope::Cgroup => {
            let counted =
                [Controller::Pids, Controller::Memory, Controller::Cpu].map(|controller| Cgroup::of(ground.target, controller));
            let mut refusal = None;
            let found = counted.into_iter().find_map(|cgroup| cgroup.map_err(|why| refusal = Some(why)).ok());
            let cgroup = found.ok_or_else(|| refusal.unwrap_or_else(|| Refusal::new("no cgroup")))?;
            if cgroup.is_root {
                return Err(Refusal::new("pause: the target's cgroup is the whole machine"));
            }
            Scope::Cgroup(cgroup)
        }
    };
    let hold = PauseHold { scope, threads: BTreeMap::new(), children: None, looked: Duration::ZERO };
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let processes = hold.processes().map_err(|error| Refusal::new(format!("pause: {error}")))?;
    if processes.contains(&own) || processes.contains(&super::leash::parent()) {
        return Err(Refusal::new("pause: this process, or its parent, is in the target's cgroup"));
    }
    Ok(hold)
}

impl Hold for PauseHold {
    /// Processes that start later have to be traced too.
    fn keeps(&self) -> CapabilitySet {
        CapabilitySet::SYS_PTRACE
    }

    fn inject(&mut self) -> Result<String, Refusal> {
        let trouble = |error: io::Error| Refusal::new(format!("pause: {error}"));
        self.children = Some(sys::signals(&[libc::SIGCHLD]).map_err(trouble)?);
        let began = sys::since_boot();
        self.look().map_err(|lost| Refusal::new(lost.to_string()))?;
        while self.threads.values().any(|state| *state != State::Stopped) && sys::since_boot() < began + STOP_WITHIN {
            std::thread::sleep(Duration::from_micros(200));
            self.hear().map_err(|lost| Refusal::new(lost.to_string()))?;
        }
        let stopped = self.stopped();
        if stopped == 0 {
            return Err(Refusal::new("pause: no thread of the target could be stopped"));
        }
        let took_ms = (sys::since_boot() - began).as_secs_f64() * 1e3;
        Ok(format!("stopped {stopped} of {} threads in {took_ms:.1} ms", self.threads.len()))
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.children.iter().map(AsFd::as_fd).collect()
    }

    fn due(&self) -> Option<Duration> {
        Some(self.looked + RESCAN_EVERY)
    }

    fn turn(&mut self) -> Result<(), Lost> {
        if let Some(children) = &self.children {
            // One read empties it: equal signals are merged.
            let mut signal = [0; 512];
            sys::read_some(children.as_fd(), &mut signal).map_err(|error| Lost::new(format!("pause: {error}")))?;
        }
        self.hear()?;
        if sys::since_boot() >= self.looked + RESCAN_EVERY {
            self.look()?;
        }
        Ok(())
    }

    fn bite(&mut self) -> Bite {
        let processes = match self.processes() {
            Ok(processes) => processes,
            Err(error) => return Bite::new(false, format!("cannot read the target's processes: {error}"), []),
        };
        let states: Vec<char> = processes.iter().flat_map(|pid| threads(*pid)).filter_map(state).collect();
        let standing = states.iter().filter(|state| matches!(state, 't' | 'Z' | 'X')).count();
        let says = format!("{standing} of {} threads of {} processes stand still", states.len(), processes.len());
        let figures = [("stopped", standing as f64), ("threads", states.len() as f64), ("processes", processes.len() as f64)];
        Bite::new(standing > 0 && standing == states.len(), says, figures)
    }

    fn revert(&mut self) -> Clean {
        let mut troubles = Vec::new();
        if let Err(lost) = self.hear() {
            troubles.push(lost.to_string());
        }
        let tids: Vec<i32> = std::mem::take(&mut self.threads).into_keys().collect();
        // One that does not stand still cannot be let go of; it runs, and is not traced any more when we end.
        let busy = tids.iter().filter(|tid| ptrace::detach(**tid) == Err(Errno::SRCH)).count();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let held: Vec<i32> = tids.iter().copied().filter(|tid| tracer(*tid) == Some(own) && state(*tid) == Some('t')).collect();
        if !held.is_empty() {
            troubles.push(format!("threads {held:?} still stand still"));
        }
        if troubles.is_empty() {
            let says = format!("{} threads let go, {busy} of them gone or running already; none stands still", tids.len());
            Clean { clean: true, says }
        } else {
            Clean { clean: false, says: troubles.join("; ") }
        }
    }
}

impl PauseHold {
    fn stopped(&self) -> usize {
        self.threads.values().filter(|state| **state == State::Stopped).count()
    }

    fn processes(&self) -> io::Result<Vec<i32>> {
        match &self.scope {
            Scope::Process(pid) => Ok(vec![*pid]),
            Scope::Cgroup(cgroup) => cgroup.processes(),
        }
    }

    /// Takes hold of every thread that is not held yet, until a whole pass finds no new one.
    fn look(&mut self) -> Result<(), Lost> {
        self.looked = sys::since_boot();
        for _ in 0..PASSES_MAX {
            let processes = self.processes().map_err(|error| Lost::new(format!("pause: {error}")))?;
            let found: BTreeSet<i32> = processes.iter().flat_map(|pid| threads(*pid)).collect();
            let new: Vec<i32> = found.into_iter().filter(|tid| !self.threads.contains_key(tid)).collect();
            let mut caught = 0;
            for tid in new {
                match ptrace::seize(tid).and_then(|()| ptrace::interrupt(tid)) {
                    Ok(()) => {
                        self.threads.insert(tid, State::Asked);
                        caught += 1;
                    }
                    // It has ended, or is ending.
                    Err(Errno::SRCH) => {}
                    Err(Errno::PERM) if matches!(state(tid), None | Some('Z' | 'X')) => {}
                    Err(Errno::PERM) => {
                        let by = tracer(tid).filter(|by| *by != 0);
                        let why = by.map_or("not permitted".to_owned(), |by| format!("process {by} traces it already"));
                        return Err(Lost::new(format!("pause: thread {tid}: {why}")));
                    }
                    Err(error) => return Err(Lost::new(format!("pause: thread {tid}: {error}"))),
                }
            }
            self.hear()?;
            if caught == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Takes in what became of the traced threads. A tracer that did not would leave zombies nobody can reap.
    fn hear(&mut self) -> Result<(), Lost> {
        while let Some(news) = ptrace::news().map_err(|error| Lost::new(format!("pause: {error}")))? {
            match news {
                News::Stopped(tid) => {
                    self.threads.insert(tid, State::Stopped);
                }
                News::Signal(tid, signal) => {
                    // Kept, it would be lost when this process is killed: the target gets it, and stops again.
                    self.threads.insert(tid, State::Asked);
                    let passed = ptrace::go_on(tid, signal).and_then(|()| ptrace::interrupt(tid));
                    match passed {
                        Ok(()) | Err(Errno::SRCH) => {}
                        Err(error) => return Err(Lost::new(format!("pause: thread {tid}: {error}"))),
                    }
                }
                News::Gone(tid) => {
                    self.threads.remove(&tid);
                }
            }
        }
        Ok(())
    }
}

fn threads(pid: i32) -> Vec<i32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The letter that says what a thread does; `t` is stopped by a tracer.
fn state(tid: i32) -> Option<char> {
    field(tid, "State:")?.chars().next()
}

fn tracer(tid: i32) -> Option<i32> {
    field(tid, "TracerPid:")?.parse().ok()
}

fn field(tid: i32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}
