//! Files: opening and reading under a path of the target waits, fails, or both, for a part of the calls.
//!
//! The kernel asks this process before each such call on that one mount. Files that were open before are not
//! asked about, nor are stat, unlink, rename and fsync: a target that touches nothing else does not notice, and
//! the bite says so.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use crate::api::{FaultPart, Size};

use super::event::{Bite, Clean};
use super::fanotify::{self, Answer, Group, Waiting};
use super::frame::{Ground, Hold, Lost, Refusal};
use super::mechanism::Parts;
use super::order::{FileError, FileOperation, Files};
use super::{privilege, sys};

/// Each waiting call holds a descriptor here, and without a free one the kernel fails the call: these are kept.
const KEPT_DESCRIPTORS: u64 = 64;

/// A caller that waits longer than this holds up more than an experiment means to.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// The longest that the bytes of one call take at a rate: a mapping counts whole, and may never be read.
const CALL_MAX: Duration = Duration::from_secs(10);

/// The first kernel where an answer may name an error, and where contents have events of their own.
const CHOSEN_ERRORS: (u32, u32) = (6, 14);

pub struct FilesHold {
    order: Files,
    /// The path as this process reads it from its own descriptors, which is how the events name files too.
    under: PathBuf,
    base: OwnedFd,
    group: Option<Group>,
    chance: ChaCha8Rng,
    pace: Pace,
    waiting: BinaryHeap<Reverse<Delayed>>,
    waiting_max: usize,
    count: Count,
}

#[derive(Clone, Copy, Default)]
struct Count {
    seen: u64,
    hit: u64,
    bytes: u64,
    not_taken: u64,
    answered: u64,
    late: Duration,
    latest: Duration,
}

/// Calls one after the other, each for as long as its bytes take.
#[derive(Default)]
struct Pace {
    /// When the last is done, as time since boot.
    free: Duration,
}

impl Pace {
    /// When a call that comes now is done. No call waits for longer than [`DELAY_MAX`].
    fn done(&mut self, now: Duration, bytes: u64, per_second: u64) -> Duration {
        let takes = Duration::from_secs_f64((bytes as f64 / per_second as f64).min(CALL_MAX.as_secs_f64()));
        self.free = (self.free.max(now) + takes).min(now + DELAY_MAX);
        self.free
    }
}

struct Delayed {
    due: Duration,
    call: Waiting,
}

pub fn check() -> Result<(), String> {
    privilege::need(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE, "SYS_ADMIN and SYS_PTRACE", "asking about file calls")?;
    Group::new().map(drop).map_err(|error| format!("this kernel asks nobody about file calls: {error}"))
}

/// What not every kernel can do of it.
pub fn checks_of_parts() -> Parts {
    let (major, minor) = CHOSEN_ERRORS;
    let able = || if kernel_is(CHOSEN_ERRORS) { Ok(()) } else { Err(format!("it needs Linux {major}.{minor}")) };
    vec![(FaultPart::FileErrors, able()), (FaultPart::FileAccess, able())]
}

pub fn prepare(order: &Files, ground: &Ground<'_>) -> Result<FilesHold, Refusal> {
    if let Some(why) = order.problem() {
        return Err(Refusal::new(format!("files: {why}")));
    }
    if order.delay.is_some_and(|delay| delay.as_std() > DELAY_MAX) {
        return Err(Refusal::new(format!("files: a delay of more than {} s", DELAY_MAX.as_secs())));
    }
    if order.operations.is_empty() {
        return Err(Refusal::new("files: no operation is named"));
    }
    if let Some(error) = order.error.filter(|error| *error != FileError::Eperm)
        && !kernel_is(CHOSEN_ERRORS)
    {
        let (major, minor) = CHOSEN_ERRORS;
        return Err(Refusal::new(format!("files: before Linux {major}.{minor} the only error is EPERM, not {error:?}")));
    }
    // NONBLOCK: a path may be a pipe, and opening one must not wait.
    let base = ground.target.open(&order.path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    refuse_own_mount(&base, &order.path)?;
    let under = name(base.as_fd()).map_err(|error| Refusal::new(format!("{}: {error}", order.path)))?;
    let group = Group::new().map_err(|error| Refusal::new(format!("files: the kernel asks nobody about file calls: {error}")))?;
    Ok(FilesHold {
        order: order.clone(),
        under,
        base,
        group: Some(group),
        chance: ChaCha8Rng::seed_from_u64(ground.seed),
        pace: Pace::default(),
        waiting: BinaryHeap::new(),
        waiting_max: room_for_waiting()?,
        count: Count::default(),
    })
}

impl Hold for FilesHold {
    /// To mark a mount. Answering needs nothing.
    fn injects_with(&self) -> CapabilitySet {
        CapabilitySet::SYS_ADMIN
    }

    fn inject(&mut self) -> Result<String, Refusal> {
        let group = self.group.as_ref().ok_or_else(|| Refusal::new("the group is closed already"))?;
        let events = self.order.operations.iter().fold(0, |events, operation| {
            events
                | match operation {
                    FileOperation::Open => fanotify::OPEN,
                    FileOperation::Read => fanotify::READ,
                    FileOperation::Access => fanotify::ACCESS,
                }
        });
        group.mark_mount(&self.base, events).map_err(|error| {
            let path = &self.order.path;
            Refusal::new(match error.raw_os_error() {
                Some(libc::EINVAL) => format!("files: this kernel knows no such events (access needs Linux 6.14): {error}"),
                Some(libc::EOPNOTSUPP) => format!("files: the file system of {path} has no such events: {error}"),
                _ => format!("files: {path} cannot be watched: {error}"),
            })
        })?;
        let delay = self.order.delay.map(|delay| format!("wait {delay}"));
        let error = self.order.error.map(|error| format!("fail with {}", format!("{error:?}").to_uppercase()));
        let rate = self.order.rate.map(|rate| format!("go on at {rate} a second"));
        let what: Vec<String> = delay.into_iter().chain(error).chain(rate).collect();
        let operations: Vec<String> =
            self.order.operations.iter().map(|operation| format!("{operation:?}").to_lowercase()).collect();
        Ok(format!("{} of {} under {} {}", self.order.percent, operations.join(", "), self.order.path, what.join(" and ")))
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        // Full: what is not read yet waits in the kernel, which is a delay too, and not a failed call.
        self.group.iter().filter(|_| self.waiting.len() < self.waiting_max).map(AsFd::as_fd).collect()
    }

    fn due(&self) -> Option<Duration> {
        self.waiting.peek().map(|Reverse(delayed)| delayed.due)
    }

    fn turn(&mut self) -> Result<(), Lost> {
        let lost = |error: io::Error| Lost::new(format!("file calls: {error}"));
        self.answer_due().map_err(lost)?;
        while self.waiting.len() < self.waiting_max {
            let Some(group) = &self.group else { break };
            let calls = group.read().map_err(lost)?;
            if calls.is_empty() {
                break;
            }
            for call in calls {
                self.take(call).map_err(lost)?;
            }
            self.answer_due().map_err(lost)?;
        }
        Ok(())
    }

    fn bite(&mut self) -> Bite {
        let Count { seen, hit, bytes, not_taken, answered, late, latest } = std::mem::take(&mut self.count);
        let mean_late_us = late.as_secs_f64() * 1e6 / (answered as f64).max(1.0);
        let of = if self.order.rate.is_some() { format!(", of {}", Size(bytes)) } else { String::new() };
        let says = format!("{hit} of {seen} calls hit{of}, {} waiting; answered {mean_late_us:.0} us late", self.waiting.len());
        let figures = [
            ("seen", seen as f64),
            ("hit", hit as f64),
            ("bytes", bytes as f64),
            ("waiting", self.waiting.len() as f64),
            ("errors_not_taken", not_taken as f64),
            ("late_mean_us", mean_late_us),
            ("late_worst_us", latest.as_secs_f64() * 1e6),
        ];
        Bite::new(hit > 0 && not_taken == 0, says, figures)
    }

    fn revert(&mut self) -> Clean {
        let Some(group) = self.group.take() else { return Clean { clean: true, says: "nothing held".into() } };
        let released = self.waiting.len();
        // Closing lets every waiting call go on, read or not; the files that the events opened go first.
        self.waiting.clear();
        drop(group);
        match groups_left() {
            Ok(0) => Clean { clean: true, says: format!("{released} waiting calls released, nobody is asked any more") },
            Ok(left) => Clean { clean: false, says: format!("{left} groups of file events are still open") },
            Err(error) => Clean { clean: false, says: format!("cannot read the open descriptors: {error}") },
        }
    }
}

impl FilesHold {
    /// Answers at once what is not to be hit, or keeps it until it is due.
    fn take(&mut self, call: Waiting) -> io::Result<()> {
        self.count.seen += 1;
        let named = name(call.file.as_fd()).is_ok_and(|name| name.starts_with(&self.under));
        if !named || self.chance.random_range(0..100) >= self.order.percent.get() {
            return self.answer(&call, Answer::GoOn);
        }
        let now = sys::since_boot();
        let due = match (self.order.rate, self.order.delay) {
            (Some(_), _) if call.bytes == 0 => return self.answer(&call, Answer::GoOn),
            (Some(rate), _) => Some(self.pace.done(now, call.bytes, rate.get())),
            (None, delay) => delay.map(|delay| now + delay.as_std()),
        };
        self.count.hit += 1;
        self.count.bytes += call.bytes;
        match due {
            Some(due) => self.waiting.push(Reverse(Delayed { due, call })),
            None => self.answer(&call, self.verdict())?,
        }
        Ok(())
    }

    fn answer_due(&mut self) -> io::Result<()> {
        while let Some(late) = self.due().and_then(|due| sys::since_boot().checked_sub(due)) {
            let Some(Reverse(delayed)) = self.waiting.pop() else { break };
            self.count.answered += 1;
            self.count.late += late;
            self.count.latest = self.count.latest.max(late);
            self.answer(&delayed.call, self.verdict())?;
        }
        Ok(())
    }

    fn verdict(&self) -> Answer {
        self.order.error.map_or(Answer::GoOn, |error| Answer::Fail(errno(error)))
    }

    fn answer(&mut self, call: &Waiting, answer: Answer) -> io::Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        match group.answer(call, answer) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.count.not_taken += 1;
                Ok(())
            }
            // The caller was killed while it waited.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn errno(error: FileError) -> i32 {
    match error {
        FileError::Eperm => libc::EPERM,
        FileError::Eio => libc::EIO,
        FileError::Ebusy => libc::EBUSY,
        FileError::Etxtbsy => libc::ETXTBSY,
        FileError::Eagain => libc::EAGAIN,
        FileError::Enospc => libc::ENOSPC,
        FileError::Edquot => libc::EDQUOT,
    }
}

/// A mark covers a mount whole. On the one this process lives on it would hit the node, and this process, which
/// would then wait for its own answer.
fn refuse_own_mount(base: &OwnedFd, path: &str) -> Result<(), Refusal> {
    let mount = |fd: BorrowedFd<'_>, path: &str, flags: AtFlags| {
        statx(fd, path, flags, StatxFlags::MNT_ID).map(|status| status.stx_mnt_id).map_err(io::Error::from)
    };
    let trouble = |error: io::Error| Refusal::new(format!("files: which mount {path} lies on: {error}"));
    let marked = mount(base.as_fd(), "", AtFlags::EMPTY_PATH).map_err(trouble)?;
    for own in ["/", "/proc/self/exe", "/dev", "/sys", "/proc"] {
        if mount(rustix::fs::CWD, own, AtFlags::empty()).is_ok_and(|own| own == marked) {
            return Err(Refusal::new(format!(
                "files: {path} lies on the mount of {own} of this process; it would hit the node, not the target alone"
            )));
        }
    }
    Ok(())
}

fn name(file: BorrowedFd<'_>) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// How many calls may wait here at once, with as many descriptors as this process may have.
fn room_for_waiting() -> Result<usize, Refusal> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .map_err(|error| Refusal::new(format!("files: cannot raise the limit of open files: {error}")))?;
    // Beyond a hundred thousand waiting calls nothing is learned any more.
    let room = limit.maximum.unwrap_or(u64::MAX).min(100_000).saturating_sub(KEPT_DESCRIPTORS);
    match usize::try_from(room) {
        Ok(room) if room > 0 => Ok(room),
        _ => Err(Refusal::new("files: the limit of open files leaves no room for waiting calls")),
    }
}

fn groups_left() -> io::Result<usize> {
    let fds = std::fs::read_dir("/proc/self/fd")?;
    let names = fds.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    Ok(names.filter(|name| name.to_string_lossy().contains("[fanotify]")).count())
}

fn kernel_is(least: (u32, u32)) -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release(&text).is_some_and(|release| release >= least)
}

fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Delayed {}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_go_on_at_the_rate_and_none_waits_for_ever() {
        let seconds = Duration::from_secs;
        let mut pace = Pace::default();
        assert_eq!(pace.done(seconds(100), 1_000, 1_000), seconds(101));
        assert_eq!(pace.done(seconds(100), 2_000, 1_000), seconds(103));
        assert_eq!(pace.done(seconds(200), 500, 1_000), Duration::from_millis(200_500));
        assert_eq!(pace.done(seconds(200), u64::MAX, 1), Duration::from_millis(210_500));
        for _ in 0..5 {
            pace.done(seconds(200), u64::MAX, 1);
        }
        assert_eq!(pace.done(seconds(200), 1_000, 1_000), seconds(260));
    }

    #[test]
    fn a_kernels_release_is_read_as_numbers() {
        assert_eq!(release("6.18.44-fc-v782\n"), Some((6, 18)));
        assert_eq!(release("6.1.0-9-amd64"), Some((6, 1)));
        assert!(release("6.9").unwrap() < CHOSEN_ERRORS && release("6.14.0").unwrap() >= CHOSEN_ERRORS);
    }
}
