//! Process limit: one worker in the target's cgroup with as many idle threads as are missing to the limit.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cgroup::{self, Cgroup, Controller, Version};
use super::event::{Bite, Clean};
use super::frame::{Ground, Hold, Lost, Refusal};
use super::leash::LastResort;
use super::memory;
use super::order::Processes;
use super::sys::{Idlers, Shared};
use super::worker::{self, Worker};

/// What ends in the target meanwhile leaves room, which is filled again this soon.
const REFILL_EVERY: Duration = Duration::from_millis(50);

/// Kernel memory of a thread, measured 26 KB; in version 2 it is charged to the target.
const THREAD_BYTES: u64 = 32 << 10;

const THREADS: usize = 0;

pub struct ProcessesHold {
    /// In use when it holds.
    goal: u64,
    room: Room,
    cgroup: Cgroup,
    door: File,
    target: OwnedFd,
    last_resort: LastResort,
    shared: Shared,
    workers: Vec<Worker>,
    refused_before: u64,
}

/// The tightest limit between the container and its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    limit: u64,
    used: u64,
}

pub fn check() -> Result<(), String> {
    cgroup::check(Controller::Pids)
}

pub fn prepare(order: &Processes, ground: &Ground<'_>) -> Result<ProcessesHold, Refusal> {
    let cgroup = Cgroup::of(ground.target, Controller::Pids)?;
    let room = room(&cgroup).ok_or_else(|| {
        Refusal::new("neither the container nor its pod has a limit of processes: the node would run out of them")
    })?;
    let goal = match (order.percent, order.leave) {
        (Some(percent), None) => room.limit * u64::from(percent.get()) / 100,
        (None, leave) => room.limit.saturating_sub(u64::from(leave.unwrap_or(0))),
        (Some(_), Some(_)) => return Err(Refusal::new("processes: give percent or leave, not both")),
    };
    if goal <= room.used {
        return Err(Refusal::new(format!("processes: {} of {} are in use already, the goal is {goal}", room.used, room.limit)));
    }
    if cgroup.version == Version::V2
        && let Ok(memory) = Cgroup::of(ground.target, Controller::Memory)
    {
        memory::refuse_more_than_is_spare(&memory, (goal - room.used) * THREAD_BYTES)
            .map_err(|why| Refusal::new(format!("processes: {goal} processes take memory: {why}")))?;
    }
    Ok(ProcessesHold {
        goal,
        room,
        door: cgroup.door()?,
        cgroup,
        target: ground.target.watch()?,
        last_resort: ground.last_resort,
        shared: Shared::new().map_err(|error| Refusal::new(format!("no shared memory: {error}")))?,
        workers: Vec::new(),
        refused_before: 0,
    })
}

fn room(cgroup: &Cgroup) -> Option<Room> {
    let rooms =
        cgroup.at_each_level(|level| Some(Room { limit: level.number("pids.max")?, used: level.number("pids.current")? }));
    rooms.into_iter().min_by_key(|room| room.limit.saturating_sub(room.used))
}

impl Hold for ProcessesHold {
    fn inject(&mut self) -> Result<String, Refusal> {
        self.refused_before = self.refused();
        let (goal, cgroup, shared) = (self.goal, &self.cgroup, &self.shared);
        let most = usize::try_from(goal).map_err(|_| Refusal::new(format!("processes: {goal} are too many")))?;
        let doors = std::slice::from_ref(&self.door);
        let worker = Worker::start(doors, self.last_resort, &self.target, |tether| {
            let mut idlers = Idlers::reserve(most)?;
            loop {
                let missing = room(cgroup).map_or(0, |room| goal.saturating_sub(room.used));
                for _ in 0..missing {
                    if idlers.add().is_err() {
                        break;
                    }
                }
                shared[THREADS].store(idlers.count() as u64, Ordering::Relaxed);
                tether.sleep(REFILL_EVERY);
            }
        })?;
        self.workers.push(worker);
        let Room { limit, used } = self.room;
        Ok(format!("uses {goal} of the limit of {limit} processes; {used} were in use"))
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.workers.iter().map(Worker::pidfd).collect()
    }

    fn turn(&mut self) -> Result<(), Lost> {
        worker::all_alive(&mut self.workers)
    }

    fn bite(&mut self) -> Bite {
        let Some(room) = room(&self.cgroup) else { return Bite::new(false, "the limit is gone", []) };
        let threads = self.shared[THREADS].load(Ordering::Relaxed);
        let refused = self.refused().saturating_sub(self.refused_before);
        let says = format!("{} of {} in use, {threads} of them held here; {refused} more were refused", room.used, room.limit);
        let figures = [
            ("used", room.used as f64),
            ("limit", room.limit as f64),
            ("goal", self.goal as f64),
            ("held", threads as f64),
            ("refused", refused as f64),
        ];
        Bite::new(threads > 0 && room.used >= self.goal, says, figures)
    }

    fn revert(&mut self) -> Clean {
        worker::clear(&mut self.workers, &self.cgroup)
    }
}

impl ProcessesHold {
    /// Forks and clones that met the limit, the worker's own included.
    fn refused(&self) -> u64 {
        self.cgroup.value("pids.events", "max").unwrap_or(0)
    }
}
