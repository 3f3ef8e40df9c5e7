//! Processor pressure: workers in the target's cgroup that burn what the order says, each by its own CPU clock.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::cgroup::{self, Cgroup, Controller, Level, Version};
use super::event::{Bite, Clean};
use super::frame::{Ground, Hold, Lost, Refusal};
use super::leash::LastResort;
use super::order::{Cpu, CpuMode};
use super::sys::{self, Shared};
use super::worker::{self, Tether, Worker};

/// Short enough to be even within the 100 ms in which the kernel counts a limit.
const SLOT: Duration = Duration::from_millis(10);

/// What a worker may catch up after it was kept waiting, in seconds of CPU: no burst after a long stall.
const OWED_MAX: f64 = 0.25;

/// How often `fillUpTo` compares what target and workers use together with the goal, and how much of the
/// difference it takes at once. Half every 200 ms settles within a second without swinging.
const ADJUST_EVERY: Duration = Duration::from_millis(200);
const ADJUST_BY: f64 = 0.5;

pub struct CpuHold {
    goal_cores: f64,
    limit_cores: Option<f64>,
    mode: CpuMode,
    cgroup: Cgroup,
    accounting: Option<Cgroup>,
    doors: Vec<File>,
    target: OwnedFd,
    last_resort: LastResort,
    /// Cores a worker burns, as the bits of a float.
    rate: Shared,
    rate_cores: f64,
    workers: Vec<Worker>,
    bitten: Reading,
    adjusted: Reading,
}

/// Clocks at one moment.
#[derive(Clone, Copy, Default)]
struct Reading {
    at: Duration,
    burnt: Duration,
    used: Duration,
    throttled: u64,
}

pub fn check() -> Result<(), String> {
    cgroup::check(Controller::Cpu)
}

pub fn prepare(order: &Cpu, ground: &Ground<'_>) -> Result<CpuHold, Refusal> {
    let cgroup = Cgroup::of(ground.target, Controller::Cpu)?;
    let limits = cgroup.at_each_level(|level| limit(level, cgroup.version));
    let limit_cores = limits.into_iter().min_by(f64::total_cmp);
    let online = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    let goal_cores = match (order.percent, order.cores) {
        (Some(percent), None) => limit_cores.map(|limit| limit * f64::from(percent.get()) / 100.0).ok_or_else(|| {
            Refusal::new("neither the container nor its pod has a CPU limit to take a percentage of: give cores")
        })?,
        (None, Some(cores)) => cores,
        (None, None) | (Some(_), Some(_)) => return Err(Refusal::new("cpu: give percent or cores, one of them")),
    };
    if !(goal_cores > 0.0 && goal_cores <= online) {
        return Err(Refusal::new(format!("cpu: {goal_cores} cores, but this node has {online}")));
    }
    let mut doors = vec![cgroup.door()?];
    let mut accounting = None;
    if cgroup.version == Version::V1 {
        // Separate hierarchies or the same directory under two names: joining twice costs nothing.
        let counted = Cgroup::of(ground.target, Controller::CpuAccounting)?;
        doors.push(counted.door()?);
        if let Ok(set) = Cgroup::of(ground.target, Controller::CpuSet) {
            doors.push(set.door()?);
        }
        accounting = Some(counted);
    }
    Ok(CpuHold {
        goal_cores,
        limit_cores,
        mode: order.mode,
        cgroup,
        accounting,
        doors,
        target: ground.target.watch()?,
        last_resort: ground.last_resort,
        rate: Shared::new().map_err(|error| Refusal::new(format!("no shared memory: {error}")))?,
        rate_cores: 0.0,
        workers: Vec::new(),
        bitten: Reading::default(),
        adjusted: Reading::default(),
    })
}

impl Hold for CpuHold {
    fn inject(&mut self) -> Result<String, Refusal> {
        let count = self.goal_cores.ceil().max(1.0);
        self.set_rate(
            match self.mode {
                CpuMode::Add => self.goal_cores,
                // From below: a busy target must not be hurt even at the start.
                CpuMode::FillUpTo => 0.0,
            },
            count,
        );
        for index in 0..count as u32 {
            let rate = &self.rate[0];
            // Spread over the slot, so that they do not all start and stop together.
            let phase = SLOT.mul_f64(f64::from(index) / count);
            let worker = Worker::start(&self.doors, self.last_resort, &self.target, |tether| burn(rate, tether, phase))?;
            self.workers.push(worker);
        }
        self.bitten = self.reading().map_err(|error| Refusal::new(format!("cannot read the CPU clocks: {error}")))?;
        self.adjusted = self.bitten;
        let limit = self.limit_cores.map_or("no limit".to_owned(), |limit| format!("a limit of {limit} cores"));
        let what = match self.mode {
            CpuMode::Add => "burns",
            CpuMode::FillUpTo => "fills up to",
        };
        Ok(format!("{what} {:.3} cores beside the target, which has {limit}", self.goal_cores))
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.workers.iter().map(Worker::pidfd).collect()
    }

    fn due(&self) -> Option<Duration> {
        (self.mode == CpuMode::FillUpTo).then(|| self.adjusted.at + ADJUST_EVERY)
    }

    fn turn(&mut self) -> Result<(), Lost> {
        worker::all_alive(&mut self.workers)?;
        if self.due().is_some_and(|due| sys::since_boot() >= due) {
            let now = self.reading().map_err(|error| Lost::new(format!("cannot read the CPU clocks: {error}")))?;
            let used = cores(now.used, self.adjusted.used, now.at - self.adjusted.at);
            let rate = self.rate_cores + ADJUST_BY * (self.goal_cores - used);
            self.set_rate(rate.clamp(0.0, self.goal_cores), self.workers.len() as f64);
            self.adjusted = now;
        }
        Ok(())
    }

    fn bite(&mut self) -> Bite {
        let now = match self.reading() {
            Ok(now) => now,
            Err(error) => return Bite::new(false, format!("cannot read the CPU clocks: {error}"), []),
        };
        let before = std::mem::replace(&mut self.bitten, now);
        let time = now.at - before.at;
        let (burnt, used) = (cores(now.burnt, before.burnt, time), cores(now.used, before.used, time));
        let throttled = now.throttled.saturating_sub(before.throttled);
        let bit = match self.mode {
            // Less than ordered is what a target under its limit leaves; less than half is nothing to rely on.
            CpuMode::Add => burnt >= self.goal_cores / 2.0,
            CpuMode::FillUpTo => used >= self.goal_cores * 0.9,
        };
        let says = format!("burnt {burnt:.3} of {:.3} cores; with the target {used:.3}", self.goal_cores);
        let figures = [
            ("burnt_cores", burnt),
            ("goal_cores", self.goal_cores),
            ("used_cores", used),
            ("throttled_periods", throttled as f64),
            ("seconds", time.as_secs_f64()),
        ];
        Bite::new(bit, says, figures)
    }

    fn revert(&mut self) -> Clean {
        worker::clear(&mut self.workers, &self.cgroup)
    }
}

impl CpuHold {
    fn set_rate(&mut self, cores: f64, workers: f64) {
        self.rate_cores = cores;
        self.rate[0].store((cores / workers).to_bits(), Ordering::Relaxed);
    }

    fn reading(&self) -> io::Result<Reading> {
        let burnt: io::Result<Duration> = self.workers.iter().map(|worker| sys::cpu_time(worker.pid())).sum();
        let used = match &self.accounting {
            Some(accounting) => Duration::from_nanos(accounting.number("cpuacct.usage")?),
            None => Duration::from_micros(self.cgroup.value("cpu.stat", "usage_usec")?),
        };
        // A root cgroup is never throttled and has no count of it.
        let throttled = self.cgroup.value("cpu.stat", "nr_throttled").unwrap_or(0);
        Ok(Reading { at: sys::since_boot(), burnt: burnt?, used, throttled })
    }
}

fn cores(now: Duration, before: Duration, time: Duration) -> f64 {
    now.saturating_sub(before).as_secs_f64() / time.as_secs_f64().max(1e-6)
}

/// Quota by period, in cores.
fn limit(level: &Level<'_>, version: Version) -> Option<f64> {
    let (quota, period) = match version {
        Version::V1 => (level.number("cpu.cfs_quota_us")?, level.number("cpu.cfs_period_us")?),
        Version::V2 => {
            let text = level.text("cpu.max")?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse().ok()?, period.parse().ok()?)
        }
    };
    (period > 0).then(|| quota as f64 / period as f64)
}

/// Burns `rate` cores for ever.
fn burn(rate: &AtomicU64, tether: &Tether<'_>, phase: Duration) -> io::Result<std::convert::Infallible> {
    // Without it each sleep may end 50 us late. Refused, the debt below makes up for it.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    tether.sleep(phase);
    let mut wall = sys::since_boot();
    let mut used = own_time();
    let mut owed = 0.0f64;
    let mut next = wall + SLOT;
    loop {
        let (wall_now, used_now) = (sys::since_boot(), own_time());
        let rate = f64::from_bits(rate.load(Ordering::Relaxed));
        owed += (wall_now - wall).as_secs_f64() * rate - (used_now - used).as_secs_f64();
        owed = owed.clamp(-OWED_MAX, OWED_MAX);
        (wall, used) = (wall_now, used_now);
        if owed > 0.0 {
            let until = used + Duration::from_secs_f64(owed).min(SLOT);
            while own_time() < until {
                (0..500).for_each(|_| std::hint::spin_loop());
            }
        }
        // Absolute slots: sleeping "a slot" each time would drift into a fixed half.
        let left = next.saturating_sub(sys::since_boot());
        next = if left.is_zero() { sys::since_boot() + SLOT } else { next + SLOT };
        tether.sleep(left);
    }
}

fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
