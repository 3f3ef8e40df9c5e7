//! What a holder cannot get away from: its parent, its length, its target, and the one who gave the order.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};

use super::event::End;
use super::frame::Refusal;
use super::sys;

/// After the ordered length the holder reverts by itself; this much later the kernel ends what did not.
pub const LAST_RESORT: Duration = Duration::from_secs(1);

/// A line on stdin may be this long: an order that names some thousand addresses.
const LINE_MAX: usize = 1 << 20;

/// The kernel kills this process when its parent ends. To be called before anything is injected, and again in
/// each worker.
///
/// # Errors
/// The parent is not, or not any more, the one expected: then the signal would never come.
pub fn die_with(parent: i32) -> Result<(), Refusal> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Refusal::new(format!("cannot be bound to the parent: {error}")))?;
    match self::parent() {
        pid if pid == parent => Ok(()),
        pid => Err(Refusal::new(format!("the parent was to be process {parent}, and is {pid}"))),
    }
}

/// 0 where the parent is outside this pid namespace.
pub fn parent() -> i32 {
    getppid().map_or(0, |pid| pid.as_raw_nonzero().get())
}

/// The end of everything this process holds, on the clock that counts suspended time.
#[derive(Clone, Copy, Debug)]
pub struct LastResort {
    end: Duration,
}

impl LastResort {
    /// From here on the kernel kills this process [`LAST_RESORT`] after `length`, whatever it does or does not do.
    ///
    /// # Errors
    /// The kernel has no such timer for us.
    pub fn set(length: Duration) -> Result<Self, Refusal> {
        let last_resort = LastResort { end: sys::since_boot() + length };
        last_resort.again()?;
        Ok(last_resort)
    }

    /// The same moment for a worker, which does not inherit its parent's timer.
    pub fn again(self) -> Result<(), Refusal> {
        sys::kill_me_at(self.end + LAST_RESORT)
            .map_err(|error| Refusal::new(format!("no kernel timer that ends this process: {error}")))
    }
}

/// Where the order comes from, if not from flags: closing it is the order to end.
pub struct Orders {
    stdin: OwnedFd,
    buffer: Vec<u8>,
}

impl Orders {
    pub fn on_stdin() -> io::Result<Self> {
        Ok(Orders { stdin: io::stdin().as_fd().try_clone_to_owned()?, buffer: Vec::new() })
    }

    /// The next line, waiting for it. `None`: stdin was closed.
    pub fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(line) = self.line() {
                return Ok(Some(line));
            }
            if !self.read()? {
                return Ok(None);
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let line = self.buffer.drain(..=end).collect::<Vec<u8>>();
        Some(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    /// Reads what there is; `false` at the end.
    fn read(&mut self) -> io::Result<bool> {
        let mut some = [0; 4096];
        match sys::read_some(self.stdin.as_fd(), &mut some)? {
            Some(0) => Ok(false),
            Some(count) if self.buffer.len() + count > LINE_MAX => {
                Err(io::Error::other(format!("a line of more than {LINE_MAX} bytes")))
            }
            Some(count) => {
                self.buffer.extend_from_slice(&some[..count]);
                Ok(true)
            }
            None => Ok(true),
        }
    }
}

/// All that can end a hold, watched together.
pub struct Leash {
    length: OwnedFd,
    signals: OwnedFd,
    target: OwnedFd,
    orders: Option<Orders>,
}

/// What a wait ended with.
pub enum Woke {
    End(End),
    TargetGone,
    /// One more line on stdin.
    Line(String),
    /// Time passed, or a descriptor of the fault is ready.
    Fault,
}

impl Leash {
    /// # Errors
    /// The kernel refused one of the things to watch: without it nothing may be injected.
    pub fn new(last_resort: LastResort, target: OwnedFd, orders: Option<Orders>) -> Result<Self, Refusal> {
        let refuse = |error: io::Error| Refusal::new(format!("cannot watch for the end: {error}"));
        let length = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(|error| refuse(error.into()))?;
        let at = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: timespec(last_resort.end) };
        timerfd_settime(&length, TimerfdTimerFlags::ABSTIME, &at).map_err(|error| refuse(error.into()))?;
        Ok(Leash { length, signals: sys::signals(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).map_err(refuse)?, target, orders })
    }

    /// Waits until there is an end, a line, something at one of `fds`, or until `longest` has passed.
    ///
    /// # Errors
    /// Of the kernel, or of stdin. The caller treats either as an end.
    pub fn wait(&mut self, fds: &[BorrowedFd<'_>], longest: Duration) -> io::Result<Woke> {
        if let Some(line) = self.orders.as_mut().and_then(Orders::line) {
            return Ok(Woke::Line(line));
        }
        // In the order in which they count: an end comes before the fault's own work.
        let mut polled = vec![
            PollFd::new(&self.length, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.target, PollFlags::IN),
        ];
        let ends = [Woke::End(End::Length), Woke::End(End::Signal), Woke::TargetGone];
        let stdin = self.orders.as_ref().map(|orders| {
            polled.push(PollFd::new(&orders.stdin, PollFlags::IN));
            polled.len() - 1
        });
        polled.extend(fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        match poll(&mut polled, Some(&timespec(longest))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(polled);
        if let Some(end) = ends.into_iter().zip(&ready).find_map(|(end, ready)| ready.then_some(end)) {
            return Ok(end);
        }
        if stdin.is_some_and(|index| ready[index])
            && let Some(orders) = &mut self.orders
        {
            if !orders.read()? {
                return Ok(Woke::End(End::Released));
            }
            return Ok(orders.line().map_or(Woke::Fault, Woke::Line));
        }
        Ok(Woke::Fault)
    }
}

pub fn timespec(length: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(length.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(length.subsec_nanos()) }
}
