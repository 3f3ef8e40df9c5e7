//! Disk fill: one unnamed file under a path of the target, as large as the order says, held by its descriptor.
//! There is never a name to clean up.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::api::Size;

use super::cgroup::{Cgroup, Controller};
use super::event::{Bite, Clean};
use super::filesystem::{self, Kind, Space};
use super::frame::{Ground, Hold, Lost, Refusal};
use super::leash::{LastResort, timespec};
use super::order::DiskFill;
use super::target::unnamed_file;
use super::worker::Worker;
use super::{memory, privilege, sys};

/// How full the node's own file system may become unless the order allows evictions: at 85 % the kubelet begins
/// to delete images, at 90 % to evict pods.
const NODE_FULL_PERCENT: u8 = 85;

/// Reserved in pieces, so that no single call takes long.
const PIECE: u64 = 64 << 20;
const PIECE_MIN: u64 = 4096;

/// How often the memory of a tmpfs is looked at: the target may need it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// ext4 counts blocks as free when its journal says so.
const FREED_WITHIN: Duration = Duration::from_millis(500);

struct FillHold {
    path: String,
    file: Option<File>,
    /// Another descriptor of the same file system, to measure it after the file is gone.
    directory: OwnedFd,
    wanted: u64,
    /// For a tmpfs: the cgroup that the memory is charged to.
    charged: Option<Charged>,
    /// When it is looked at next, as time since boot.
    look: Duration,
}

/// Whose memory a tmpfs is filled with: the target's, or the holder would be the one to run out of it.
struct Charged {
    cgroup: Cgroup,
    door: File,
    target: OwnedFd,
    last_resort: LastResort,
}

pub fn check() -> Result<(), String> {
    privilege::need(CapabilitySet::SYS_PTRACE, "SYS_PTRACE", "reaching the target's files")
}

pub fn prepare(order: &DiskFill, ground: &Ground<'_>) -> Result<Box<dyn Hold>, Refusal> {
    let directory = ground.target.directory(&order.path)?;
    let trouble = |error: io::Error| Refusal::new(format!("{}: {error}", order.path));
    let space = Space::of(&directory).map_err(trouble)?;
    let kind = filesystem::kind(&directory).map_err(trouble)?;
    let wanted = match (order.percent, order.bytes) {
        (Some(percent), None) => match space.until(percent.get()) {
            0 => return Err(Refusal::new(format!("diskFill: {} is {:.1} % full already", order.path, space.percent()))),
            bytes => bytes,
        },
        (None, Some(bytes)) if bytes.get() > space.available => {
            return Err(Refusal::new(format!("diskFill: {} has only {} available", order.path, Size(space.available))));
        }
        (None, Some(bytes)) => bytes.get(),
        (None, None) | (Some(_), Some(_)) => return Err(Refusal::new("diskFill: give percent or bytes, one of them")),
    };
    if kind == Kind::Node && !order.evict && space.used + wanted > space.whole() / 100 * u64::from(NODE_FULL_PERCENT) {
        return Err(Refusal::new(format!(
            "diskFill: {} lies on the node's own file system; more than {NODE_FULL_PERCENT} % full it loses images and pods; \
             `evict` allows it",
            order.path
        )));
    }
    let charged = if kind == Kind::Tmpfs { Some(charge(ground, wanted)?) } else { None };
    let file = Some(unnamed_file(&directory, OFlags::empty())?);
    Ok(Box::new(FillHold { path: order.path.clone(), file, directory, wanted, charged, look: Duration::ZERO }))
}

fn charge(ground: &Ground<'_>, wanted: u64) -> Result<Charged, Refusal> {
    let cgroup = Cgroup::of(ground.target, Controller::Memory)?;
    memory::refuse_more_than_is_spare(&cgroup, wanted)
        .map_err(|why| Refusal::new(format!("diskFill: this is memory of the target: {why}")))?;
    memory::refuse_more_than_the_node_has(wanted)?;
    Ok(Charged { door: cgroup.door()?, cgroup, target: ground.target.watch()?, last_resort: ground.last_resort })
}

impl Hold for FillHold {
    fn inject(&mut self) -> Result<String, Refusal> {
        let file = self.file.as_ref().ok_or_else(|| Refusal::new("the file is closed already"))?;
        match &self.charged {
            None => reserve(file, self.wanted).map_err(|error| Refusal::new(format!("{}: {error}", self.path)))?,
            Some(charged) => {
                // The pages stay charged to the worker's cgroup after the worker; the file is held here.
                let doors = std::slice::from_ref(&charged.door);
                let mut worker = Worker::start(doors, charged.last_resort, &charged.target, |_| {
                    reserve(file, self.wanted)?;
                    sys::exit_now(0)
                })?;
                let mut ended = [PollFd::from_borrowed_fd(worker.pidfd(), PollFlags::IN)];
                while poll(&mut ended, None) == Err(Errno::INTR) {}
                match worker.died().as_deref() {
                    Some("gone with code 0") => {}
                    how => return Err(Refusal::new(format!("{}: the worker was {}", self.path, how.unwrap_or("not done")))),
                }
            }
        }
        let space = Space::of(&self.directory).map_err(|error| Refusal::new(format!("{}: {error}", self.path)))?;
        Ok(format!("holds {} under {}, now {:.1} % full", Size(held(file)), self.path, space.percent()))
    }

    fn due(&self) -> Option<Duration> {
        self.charged.is_some().then_some(self.look)
    }

    /// Gives way where the target, or what shares a limit with it, needs the memory: pages of a file can not be killed.
    fn turn(&mut self) -> Result<(), Lost> {
        let (Some(charged), Some(file)) = (&self.charged, &self.file) else { return Ok(()) };
        if sys::since_boot() < self.look {
            return Ok(());
        }
        self.look = sys::since_boot() + LOOK_EVERY;
        if let Some(missing) = memory::spare(&charged.cgroup).filter(|spare| *spare < 0) {
            let less = held(file).saturating_add_signed(missing) / PIECE_MIN * PIECE_MIN;
            file.set_len(less).map_err(|error| Lost::new(format!("{}: it cannot be made smaller: {error}", self.path)))?;
        }
        Ok(())
    }

    fn bite(&mut self) -> Bite {
        let held = self.file.as_ref().map_or(0, held);
        match Space::of(&self.directory) {
            Ok(space) => {
                let says = format!("holds {}; {} is {:.1} % full", Size(held), self.path, space.percent());
                let charged = self.charged.as_ref().and_then(|charged| memory::working_set(&charged.cgroup).ok());
                let figures = [
                    ("held_bytes", held as f64),
                    ("wanted_bytes", self.wanted as f64),
                    ("available_bytes", space.available as f64),
                    ("used_percent", space.percent()),
                    ("working_set_bytes", charged.unwrap_or(0) as f64),
                ];
                // A file system needs some room for its own lists.
                Bite::new(held >= self.wanted / 100 * 99, says, figures)
            }
            Err(error) => Bite::new(false, format!("{}: {error}", self.path), []),
        }
    }

    fn revert(&mut self) -> Clean {
        let Some(file) = self.file.take() else { return Clean { clean: true, says: "nothing held".into() } };
        let held = held(&file);
        let before = Space::of(&self.directory);
        drop(file);
        let until = sys::since_boot() + FREED_WITHIN;
        loop {
            let (before, after) = match (&before, Space::of(&self.directory)) {
                (Ok(before), Ok(after)) => (before, after),
                (Err(error), _) => return Clean { clean: false, says: format!("{}: {error}", self.path) },
                (_, Err(error)) => return Clean { clean: false, says: format!("{}: {error}", self.path) },
            };
            // The target writes meanwhile: what it took of the room is not ours.
            let freed = before.used.saturating_sub(after.used);
            if freed >= held / 10 * 9 {
                let says = format!("{} given back; {} is {:.1} % full", Size(held), self.path, after.percent());
                return Clean { clean: true, says };
            }
            if sys::since_boot() >= until {
                let (held, freed) = (Size(held), Size(freed));
                return Clean { clean: false, says: format!("{}: {held} held, only {freed} are free again", self.path) };
            }
            let _ = poll(&mut [], Some(&timespec(Duration::from_millis(1))));
        }
    }
}

/// Bytes that a file takes up.
fn held(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.blocks() * 512)
}

/// Takes so much room, or as much as there is: the file system needs some for itself.
fn reserve(file: &File, wanted: u64) -> io::Result<()> {
    let (mut done, mut piece) = (0, PIECE);
    while done < wanted && piece >= PIECE_MIN {
        let next = piece.min(wanted - done);
        match fallocate(file, FallocateFlags::empty(), done, next) {
            Ok(()) => done += next,
            Err(Errno::NOSPC) => piece = piece / 2 / PIECE_MIN * PIECE_MIN,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP) => return Err(io::Error::other("this file system cannot reserve room for a file")),
            Err(error) => return Err(error.into()),
        }
    }
    if done == 0 { Err(Errno::NOSPC.into()) } else { Ok(()) }
}
