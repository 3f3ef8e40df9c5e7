//! Disk pressure: workers in the target's cgroup that read or write directly, past the cache, on the target's
//! disk. What it does to the target is a property of the disk: it is measured and reported, never promised.
//!
//! A limit on the device (`blkio.throttle`, `io.max`) would outlive its holder, so there is none here; `files` with a
//! rate is one that does not.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::thread::CapabilitySet;

use crate::api::{Size, says};

use super::cgroup::{self, Cgroup, Controller};
use super::event::{Bite, Clean};
use super::filesystem::{self, Kind, Space};
use super::frame::{Ground, Hold, Lost, Refusal};
use super::leash::LastResort;
use super::order::{DiskIo, DiskOperation};
use super::privilege;
use super::sys::{self, Shared};
use super::target::unnamed_file;
use super::worker::{self, Tether, Worker};

/// Each worker's part of the file: larger than a disk's own cache for one writer, small for any volume.
const STRIPE: u64 = DiskIo::BLOCK_MAX;

/// More at once than disks have queues for, and few enough processes for any limit.
const AT_ONCE_MAX: u16 = 64;

/// How much of what is available the file may take.
const SHARE_MAX: u64 = 2;

/// After an error of the disk a worker waits, rather than asking as fast as it can.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// Numbers shared with the workers.
const OPERATIONS: usize = 0;
const BYTES: usize = 1;
const NANOSECONDS: usize = 2;
const WORST: usize = 3;
const ERRORS: usize = 4;

pub struct IoHold {
    order: DiskIo,
    seed: u64,
    cgroup: Cgroup,
    door: File,
    target: OwnedFd,
    last_resort: LastResort,
    file: File,
    shared: Shared,
    workers: Vec<Worker>,
    bitten: (Duration, [u64; 5]),
}

pub fn check() -> Result<(), String> {
    privilege::need(CapabilitySet::SYS_PTRACE, "SYS_PTRACE", "reaching the target's files")?;
    cgroup::check(Controller::Io)
}

pub fn prepare(order: &DiskIo, ground: &Ground<'_>) -> Result<IoHold, Refusal> {
    if !order.has_whole_pages() {
        return Err(Refusal::new(format!("diskIo: {}", says::BLOCK)));
    }
    if order.at_once == 0 || order.at_once > AT_ONCE_MAX {
        return Err(Refusal::new(format!("diskIo: 1 to {AT_ONCE_MAX} operations at once")));
    }
    let cgroup = Cgroup::of(ground.target, Controller::Io)?;
    let directory = ground.target.directory(&order.path)?;
    let trouble = |error: io::Error| Refusal::new(format!("{}: {error}", order.path));
    if filesystem::kind(&directory).map_err(trouble)? == Kind::Tmpfs {
        return Err(Refusal::new(format!("diskIo: {} is memory, there is no disk under it", order.path)));
    }
    let length = STRIPE * u64::from(order.at_once);
    if Space::of(&directory).map_err(trouble)?.available < length * SHARE_MAX {
        return Err(Refusal::new(format!("diskIo: {} has no room for {} twice over", order.path, Size(length))));
    }
    let file = unnamed_file(&directory, OFlags::DIRECT | OFlags::DSYNC)?;
    Ok(IoHold {
        order: order.clone(),
        seed: ground.seed,
        door: cgroup.door()?,
        cgroup,
        target: ground.target.watch()?,
        last_resort: ground.last_resort,
        file,
        shared: Shared::new().map_err(|error| Refusal::new(format!("no shared memory: {error}")))?,
        workers: Vec::new(),
        bitten: (Duration::ZERO, [0; 5]),
    })
}

impl Hold for IoHold {
    fn inject(&mut self) -> Result<String, Refusal> {
        let length = STRIPE * u64::from(self.order.at_once);
        fallocate(&self.file, FallocateFlags::empty(), 0, length)
            .map_err(|error| Refusal::new(format!("{}: {error}", self.order.path)))?;
        for index in 0..u64::from(self.order.at_once) {
            let presser = Presser {
                order: &self.order,
                file: &self.file,
                shared: &self.shared,
                start: index * STRIPE,
                chance: ChaCha8Rng::seed_from_u64(self.seed.wrapping_add(index)),
            };
            let doors = std::slice::from_ref(&self.door);
            let worker = Worker::start(doors, self.last_resort, &self.target, |tether| presser.press(tether))?;
            self.workers.push(worker);
        }
        self.bitten = (sys::since_boot(), self.numbers());
        let what = match self.order.operation {
            DiskOperation::Write => "writes",
            DiskOperation::Read => "reads",
        };
        let rate = self.order.rate.map_or("as fast as it goes".to_owned(), |rate| format!("{rate} a second"));
        Ok(format!("{what} blocks of {}, {} at once under {}, {rate}", self.order.block, self.order.at_once, self.order.path))
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.workers.iter().map(Worker::pidfd).collect()
    }

    fn turn(&mut self) -> Result<(), Lost> {
        worker::all_alive(&mut self.workers)
    }

    fn bite(&mut self) -> Bite {
        let now = (sys::since_boot(), self.numbers());
        let before = std::mem::replace(&mut self.bitten, now);
        let worst = self.shared[WORST].swap(0, Ordering::Relaxed);
        let seconds = (now.0 - before.0).as_secs_f64().max(1e-6);
        let since = |index: usize| now.1[index].saturating_sub(before.1[index]) as f64;
        let operations = since(OPERATIONS);
        let mean_us = if operations > 0.0 { since(NANOSECONDS) / operations / 1e3 } else { 0.0 };
        let worst_us = worst as f64 / 1e3;
        let (per_second, bytes) = (operations / seconds, since(BYTES) / seconds);
        let says = format!(
            "{per_second:.0} operations and {} a second, mean {mean_us:.0} us, worst {worst_us:.0} us",
            Size(bytes as u64)
        );
        let figures = [
            ("operations_per_second", per_second),
            ("bytes_per_second", bytes),
            ("mean_us", mean_us),
            ("worst_us", worst_us),
            ("errors", since(ERRORS)),
        ];
        Bite::new(operations > 0.0, says, figures)
    }

    fn revert(&mut self) -> Clean {
        worker::clear(&mut self.workers, &self.cgroup)
    }
}

impl IoHold {
    fn numbers(&self) -> [u64; 5] {
        [OPERATIONS, BYTES, NANOSECONDS, WORST, ERRORS].map(|index| self.shared[index].load(Ordering::Relaxed))
    }
}

/// What one worker does.
struct Presser<'a> {
    order: &'a DiskIo,
    file: &'a File,
    shared: &'a Shared,
    start: u64,
    chance: ChaCha8Rng,
}

impl Presser<'_> {
    fn press(mut self, tether: &Tether<'_>) -> io::Result<std::convert::Infallible> {
        let block = self.order.block.get();
        let buffer = sys::page_aligned(usize::try_from(block).map_err(io::Error::other)?)?;
        // Contents that no disk makes smaller.
        let (first, rest) = buffer.split_at_mut(DiskIo::PAGE as usize);
        self.chance.fill_bytes(first);
        rest.chunks_mut(first.len()).for_each(|page| page.copy_from_slice(first));
        let blocks = STRIPE / block;
        if self.order.operation == DiskOperation::Read {
            // Room that was never written is read from nowhere.
            for index in 0..blocks {
                rustix::io::pwrite(self.file, buffer, self.start + index * block)?;
                tether.sleep(Duration::ZERO);
            }
        }
        let rate = self.order.rate.map(|rate| rate.get() as f64 / f64::from(self.order.at_once));
        let began = sys::since_boot();
        let mut done = 0.0;
        loop {
            let offset = self.start + self.chance.random_range(0..blocks) * block;
            let before = sys::since_boot();
            let moved = match self.order.operation {
                DiskOperation::Write => rustix::io::pwrite(self.file, buffer, offset),
                DiskOperation::Read => rustix::io::pread(self.file, &mut *buffer, offset),
            };
            let took = u64::try_from((sys::since_boot() - before).as_nanos()).unwrap_or(u64::MAX);
            let Ok(moved) = moved else {
                self.shared[ERRORS].fetch_add(1, Ordering::Relaxed);
                tether.sleep(AFTER_ERROR);
                continue;
            };
            self.shared[OPERATIONS].fetch_add(1, Ordering::Relaxed);
            self.shared[BYTES].fetch_add(moved as u64, Ordering::Relaxed);
            self.shared[NANOSECONDS].fetch_add(took, Ordering::Relaxed);
            self.shared[WORST].fetch_max(took, Ordering::Relaxed);
            done += moved as f64;
            let ahead = rate
                .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(done / rate).saturating_sub(sys::since_boot() - began));
            tether.sleep(ahead);
        }
    }
}
