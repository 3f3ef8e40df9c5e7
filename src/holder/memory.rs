//! Memory pressure: one worker in the target's memory cgroup fills the working set up to a goal, and gives way
//! when the target grows. Not the cause of an OOM kill: it stays below the limit by a margin, keeps looking, and
//! is the kernel's first victim all the same.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::api::Size;

use super::cgroup::{self, Cgroup, Controller, Level, Version};
use super::event::{Bite, Clean};
use super::frame::{Ground, Hold, Lost, Refusal};
use super::leash::LastResort;
use super::order::Memory;
use super::sys::{self, Shared};
use super::worker::{self, Tether, Worker};

/// The part of a limit that is left free unless the order allows an OOM kill. Below it the target's own growth
/// of 20 MB at once stayed without one; with `memory.oom.group` a kill takes the target along.
const MARGIN_PERCENT: u64 = 5;

/// The part of the node's memory that is left available where a limit would allow more: the kubelet evicts below
/// 100 MiB, the kernel's own reserves lie above that on large nodes.
const NODE_MARGIN_PERCENT: u64 = 10;

/// How often the worker compares; a target that allocates faster than the margin in this time meets its limit.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Grown at most so much between two looks.
const STEP: u64 = 4 << 20;

/// Given back only in pieces worth a system call.
const SHRINK: u64 = 1 << 20;

const PAGE: u64 = 4096;

/// Numbers shared with the worker.
const HELD: usize = 0;
const REACHED: usize = 1;

pub struct MemoryHold {
    goal: u64,
    limit: Option<u64>,
    ramp: Duration,
    oom: bool,
    cgroup: Cgroup,
    door: File,
    target: OwnedFd,
    last_resort: LastResort,
    shared: Shared,
    workers: Vec<Worker>,
}

pub fn check() -> Result<(), String> {
    cgroup::check(Controller::Memory)
}

pub fn prepare(order: &Memory, ground: &Ground<'_>) -> Result<MemoryHold, Refusal> {
    let cgroup = Cgroup::of(ground.target, Controller::Memory)?;
    let limit = cgroup.at_each_level(|level| limit(level, cgroup.version)).into_iter().min();
    let goal = match (order.percent, order.bytes) {
        (Some(percent), None) => limit.map(|limit| limit / 100 * u64::from(percent.get())).ok_or_else(|| {
            Refusal::new("neither the container nor its pod has a memory limit to take a percentage of: give bytes")
        })?,
        (None, Some(bytes)) => bytes.get(),
        (None, None) | (Some(_), Some(_)) => return Err(Refusal::new("memory: give percent or bytes, one of them")),
    };
    if let Some(limit) = limit.filter(|_| !order.oom)
        && goal > safe(limit)
    {
        return Err(Refusal::new(format!(
            "memory: {} are more than {} % of the limit of {}: an OOM kill is likely; `oom` allows it",
            Size(goal),
            100 - MARGIN_PERCENT,
            Size(limit)
        )));
    }
    let working = working_set(&cgroup).map_err(|error| Refusal::new(format!("cannot read the target's memory: {error}")))?;
    if goal <= working {
        let (working, goal) = (Size(working), Size(goal));
        return Err(Refusal::new(format!("memory: the target uses {working} already, the goal is {goal}")));
    }
    if !order.oom {
        refuse_more_than_is_spare(&cgroup, goal - working)
            .map_err(|why| Refusal::new(format!("memory: {why}; `oom` allows it")))?;
    }
    refuse_more_than_the_node_has(goal - working)?;
    Ok(MemoryHold {
        goal,
        limit,
        ramp: order.ramp.as_std(),
        oom: order.oom,
        door: cgroup.door()?,
        cgroup,
        target: ground.target.watch()?,
        last_resort: ground.last_resort,
        shared: Shared::new().map_err(|error| Refusal::new(format!("no shared memory: {error}")))?,
        workers: Vec::new(),
    })
}

/// The most that may be in use below a limit without asking for an OOM kill.
fn safe(limit: u64) -> u64 {
    limit / 100 * (100 - MARGIN_PERCENT)
}

/// The limit of a level; version 1 writes "none" as the largest multiple of a page.
fn limit(level: &Level<'_>, version: Version) -> Option<u64> {
    let name = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    level.number(name).filter(|limit| *limit < 1 << 60)
}

/// The file of what is used, and the key in `memory.stat` of the cache that the kernel gives up first.
fn counters(version: Version) -> (&'static str, &'static str) {
    match version {
        Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
        Version::V2 => ("memory.current", "inactive_file"),
    }
}

/// How much more may be used before a limit of the container or of its pod, which others of the pod use too, is near
/// enough for an OOM kill; below zero, how much too much it is. `None` without a limit.
fn spare_for(cgroup: &Cgroup, more: u64) -> Option<i64> {
    let (usage, inactive) = counters(cgroup.version);
    let spare = |level: &Level<'_>| {
        let safe = safe(limit(level, cgroup.version)?);
        let usage = level.number(usage)?;
        // Dear to read, and it only makes room.
        let inactive = if usage.saturating_add(more) > safe { level.value("memory.stat", inactive).unwrap_or(0) } else { 0 };
        Some(safe as i64 - usage.saturating_sub(inactive) as i64)
    };
    cgroup.at_each_level(spare).into_iter().min()
}

/// The same, for one who looks again each time before it takes a little more.
pub fn spare(cgroup: &Cgroup) -> Option<i64> {
    spare_for(cgroup, STEP)
}

/// # Errors
/// The same, in words.
pub fn refuse_more_than_is_spare(cgroup: &Cgroup, more: u64) -> Result<(), String> {
    match spare_for(cgroup, more) {
        Some(spare) if more as i64 > spare => Err(format!(
            "{} more, where {} are left below {} % of the limits of the container and its pod: an OOM kill is likely",
            Size(more),
            Size(spare.max(0) as u64),
            100 - MARGIN_PERCENT
        )),
        Some(_) | None => Ok(()),
    }
}

/// What the limit presses on: usage without the file cache that the kernel gives up first.
pub fn working_set(cgroup: &Cgroup) -> io::Result<u64> {
    let (usage, inactive) = counters(cgroup.version);
    let (usage, inactive) = (cgroup.number(usage)?, cgroup.value("memory.stat", inactive)?);
    Ok(usage.saturating_sub(inactive))
}

impl Hold for MemoryHold {
    fn inject(&mut self) -> Result<String, Refusal> {
        let filler = Filler { goal: self.goal, ramp: self.ramp, oom: self.oom, cgroup: &self.cgroup, shared: &self.shared };
        let doors = std::slice::from_ref(&self.door);
        let worker = Worker::start(doors, self.last_resort, &self.target, |tether| filler.fill(tether))?;
        self.workers.push(worker);
        let limit = self.limit.map_or("no limit".to_owned(), |limit| format!("a limit of {}", Size(limit)));
        Ok(format!("fills the working set up to {}; the target has {limit}", Size(self.goal)))
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.workers.iter().map(Worker::pidfd).collect()
    }

    fn turn(&mut self) -> Result<(), Lost> {
        worker::all_alive(&mut self.workers)
    }

    fn bite(&mut self) -> Bite {
        let held = self.shared[HELD].load(Ordering::Relaxed);
        let reached = self.shared[REACHED].load(Ordering::Relaxed) > 0;
        let resident = self.workers.first().and_then(|worker| resident(worker.pid())).unwrap_or(0);
        let working = match working_set(&self.cgroup) {
            Ok(working) => working,
            Err(error) => return Bite::new(false, format!("cannot read the target's memory: {error}"), []),
        };
        // On the way there it bites as soon as it holds something; once there, 2 % is what it may be off.
        let bit = resident > 0 && (!reached || working >= self.goal / 100 * 98);
        let says = format!("holds {}; the working set is {} of {}", Size(resident), Size(working), Size(self.goal));
        let figures = [
            ("held_bytes", held as f64),
            ("resident_bytes", resident as f64),
            ("working_set_bytes", working as f64),
            ("goal_bytes", self.goal as f64),
            ("limit_bytes", self.limit.unwrap_or(0) as f64),
        ];
        Bite::new(bit, says, figures)
    }

    fn revert(&mut self) -> Clean {
        worker::clear(&mut self.workers, &self.cgroup)
    }
}

/// What the worker does.
struct Filler<'a> {
    goal: u64,
    ramp: Duration,
    oom: bool,
    cgroup: &'a Cgroup,
    shared: &'a Shared,
}

impl Filler<'_> {
    fn fill(&self, tether: &Tether<'_>) -> io::Result<std::convert::Infallible> {
        if !self.oom {
            // Raising one's own score needs no right. Should the limit be met in spite of all, this goes first.
            std::fs::write("/proc/self/oom_score_adj", "1000")?;
        }
        let most = self.goal.next_multiple_of(PAGE);
        let memory = Pages::reserve(most)?;
        let start = sys::since_boot();
        let before = working_set(self.cgroup)?;
        let mut held = 0u64;
        loop {
            let working = working_set(self.cgroup)?;
            let others = working.saturating_sub(held);
            let share = if self.ramp.is_zero() {
                1.0
            } else {
                ((sys::since_boot() - start).as_secs_f64() / self.ramp.as_secs_f64()).min(1.0)
            };
            let goal = before + (self.goal.saturating_sub(before) as f64 * share) as u64;
            let spare = if self.oom { None } else { spare(self.cgroup) };
            let allowed = spare.map_or(u64::MAX, |spare| held.saturating_add_signed(spare));
            let wanted = goal.saturating_sub(others).min(most).min(allowed) / PAGE * PAGE;
            if wanted > held {
                let next = wanted.min(held + STEP);
                memory.touch(held, next);
                held = next;
            } else if held - wanted >= SHRINK {
                memory.give_back(wanted, held)?;
                held = wanted;
            }
            self.shared[HELD].store(held, Ordering::Relaxed);
            if share >= 1.0 && wanted <= held {
                raise(&self.shared[REACHED]);
            }
            if wanted <= held {
                tether.sleep(LOOK_EVERY);
            } else {
                tether.sleep(Duration::ZERO);
            }
        }
    }
}

fn raise(flag: &AtomicU64) {
    flag.store(1, Ordering::Relaxed);
}

/// Anonymous memory that is taken and given back page by page.
struct Pages {
    start: std::ptr::NonNull<u8>,
    length: u64,
}

impl Pages {
    fn reserve(length: u64) -> io::Result<Self> {
        let bytes = usize::try_from(length).map_err(io::Error::other)?;
        let start = sys::reserve(bytes)?;
        // SAFETY: the whole range was mapped just now and belongs to nobody else. Huge pages would make a step
        // of 4 KiB cost 2 MiB.
        let status = unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_NOHUGEPAGE) };
        // A kernel without huge pages refuses, and needs no such advice.
        match status {
            0 => Ok(Pages { start, length }),
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => Ok(Pages { start, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes the pages in this range real, each with other contents, so that nothing can merge or compress them
    /// away.
    fn touch(&self, from: u64, to: u64) {
        assert!(from <= to && to <= self.length && from.is_multiple_of(PAGE), "pages outside of what was reserved");
        for offset in (from..to).step_by(PAGE as usize) {
            // SAFETY: the offset lies in the reserved range, page aligned, and no reference to it exists.
            unsafe {
                let page = self.start.as_ptr().add(offset as usize).cast::<u64>();
                page.write_volatile(offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            }
        }
    }

    fn give_back(&self, from: u64, to: u64) -> io::Result<()> {
        assert!(from <= to && to <= self.length && from.is_multiple_of(PAGE), "pages outside of what was reserved");
        // SAFETY: the range lies in the reserved one, and nothing refers to its contents.
        let status = unsafe {
            let start = self.start.as_ptr().add(from as usize);
            libc::madvise(start.cast(), (to - from) as usize, libc::MADV_DONTNEED)
        };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Resident bytes of a process.
fn resident(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    text.split(' ').nth(1)?.parse::<u64>().ok().map(|pages| pages * PAGE)
}

/// # Errors
/// The node would be short of memory before the target's limit is met.
pub fn refuse_more_than_the_node_has(more: u64) -> Result<(), Refusal> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| Refusal::new(format!("/proc/meminfo: {error}")))?;
    let value = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let (Some(total), Some(available)) = (value("MemTotal"), value("MemAvailable")) else {
        return Err(Refusal::new("/proc/meminfo says nothing about available memory"));
    };
    let free = available.saturating_sub(total / 100 * NODE_MARGIN_PERCENT);
    if more > free {
        return Err(Refusal::new(format!(
            "memory: {} more would leave the node with less than {NODE_MARGIN_PERCENT} % available",
            Size(more)
        )));
    }
    Ok(())
}
