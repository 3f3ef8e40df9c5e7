//! Frames on their way out, taken from one device, held here and sent on: the only way to delay what a target sends
//! without stopping its TCP, whose packets count against their sender for as long as they are in a queue of the kernel.
//! The TAP and everything in it end with the process.
//!
//! The TAP itself drops what is sent into it: frames are read from a socket that listens to it, many at a time and each
//! with the time at which it came, neither of which a TAP can give.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, fstat, makedev, open};

use super::super::node;
use super::Refusal;
use super::room::Room;
use super::ruleset::MARK;
use super::sys::{self, Device, Inbox};

/// The device's name, and proof that nothing is left when it is gone.
pub const NAME: &str = "gameday0";
/// struct virtio_net_hdr, then Ethernet's header.
const VIRTIO: usize = 10;
pub const IP_OFFSET: usize = VIRTIO + 14;
/// Device numbers: linux/miscdevice.h.
const TUN: (u32, u32) = (10, 200);
const ARPHRD_ETHER: u16 = 1;
/// Memory for frames that wait for us in the kernel, which doubles it: 80,000 of the least, 28,000 of 1,500 bytes, some
/// 700 superpackets.
const RECEIVE_BUFFER: i32 = 32 << 20;
/// Frames on their way into the TAP, of many processors at once. More than 10,000 is refused before Linux 6.13.
const QUEUE_LENGTH: i32 = 10_000;
/// Frames of one read.
const AT_ONCE: usize = 32;
const FRAME_MAX: usize = 70 << 10;
/// Frames sent on in one go. What receives them may be an ordinary thread of the kernel (always before Linux 6.5, when it
/// is busy), which waits for as long as this one runs ahead of it; what waits for it above a thousand packets
/// (`net.core.netdev_max_backlog`) is dropped. Whoever sent it is told ENOBUFS, but not by every kernel before 6.6.
const BURST: usize = 256;
/// Lets that thread go on: once it has begun it does not give way before it has done some 64 to 300 packets.
const PAUSE: Duration = Duration::from_micros(50);
/// The most that a TAP takes.
const MTU_MAX: i32 = 65_521;
/// What is sent must not wait for memory.
const SEND_BUFFER: i32 = 64 << 20;

pub struct Tap {
    tun: OwnedFd,
    taken: OwnedFd,
    out: OwnedFd,
    /// The device that frames are taken from.
    pub device: String,
    pub index: u32,
    /// Of the TAP itself: its own chatter is not sent on.
    own_address: [u8; 6],
    inbox: Inbox,
    room: Room,
}

impl Tap {
    /// # Errors
    /// Where the kernel, the file system or the devices of this namespace do not allow it.
    pub fn open(device: Option<&str>, superpackets: bool) -> Result<Self, Refusal> {
        let refused = |what: &'static str| move |error: io::Error| Refusal::egress(what, &error);
        let control = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(refused("a socket"))?;
        let device = match device {
            Some(device) => device.to_owned(),
            None => only_device(&control)?,
        };
        let tun = open_tun().map_err(refused("opening /dev/net/tun, here or as a process of the node sees it"))?;
        Device::named(NAME).make_tap(&tun).map_err(refused("making a TAP device"))?;
        sys::set_offloads(&tun, superpackets).map_err(refused("its offloads"))?;
        let setup = || {
            sys::drop_all(&tun)?;
            Device::named(NAME).set_queue_length(&control, QUEUE_LENGTH)?;
            // A socket that listens is not given what stands beside a frame: it would be sent on into another network.
            Device::named(NAME).write_tags_into_frames(&control)?;
            let mtu = Device::named(&device).mtu(&control)?.min(MTU_MAX);
            Device::named(NAME).set_mtu(&control, mtu)?;
            Device::named(NAME).set_up(&control)?;
            let (_, own_address) = Device::named(NAME).hardware(&control)?;
            let index = Device::named(NAME).index(&control)?;
            let taken = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
            sys::set_option(&taken, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
            sys::set_option(&taken, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
            sys::set_option(&taken, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
            sys::listen_to_device(&taken, index)?;
            let out = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
            sys::bind_to_device(&out, Device::named(&device).index(&control)?)?;
            sys::set_option(&out, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
            sys::set_option(&out, libc::SOL_SOCKET, libc::SO_MARK, MARK as i32)?;
            sys::set_option(&out, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
            Ok((own_address, index, taken, out))
        };
        let (own_address, index, taken, out) = setup().map_err(refused("setting up a TAP device"))?;
        Ok(Tap {
            tun,
            taken,
            out,
            device,
            index,
            own_address,
            inbox: Inbox::new(AT_ONCE, FRAME_MAX).stamped(),
            room: Room::Enough,
        })
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.taken
    }

    /// The highest number among its files.
    pub fn highest(&self) -> RawFd {
        self.tun.as_raw_fd().max(self.taken.as_raw_fd()).max(self.out.as_raw_fd())
    }

    /// Reads frames that have come, without waiting, and says how many.
    pub fn fill(&mut self) -> io::Result<usize> {
        self.inbox.fill(&self.taken)
    }

    /// As many as one read brings.
    pub fn at_once(&self) -> usize {
        self.inbox.capacity()
    }

    /// What the target sent, of the frames that were read, and when, in nanoseconds since 1970.
    pub fn frames(&self) -> impl Iterator<Item = (Option<u64>, &[u8])> {
        let sent_by_target =
            |(_, frame): &(_, &[u8])| frame.len() > IP_OFFSET && frame[VIRTIO + 6..VIRTIO + 12] != self.own_address;
        self.inbox.stamps().zip(self.inbox.datagrams()).filter(sent_by_target)
    }

    /// Frames that the target sent and nobody will: they found no room, since this was last asked.
    pub fn dropped(&self) -> io::Result<u64> {
        sys::frames_dropped(&self.taken)
    }

    /// Sends frames on. Returns how many could not be sent.
    pub fn send(&mut self, frames: &[Box<[u8]>]) -> usize {
        let Tap { out, room, .. } = self;
        let mut again = |refused: Option<&io::Error>| match refused {
            None => {
                room.found();
                true
            }
            Some(error) => {
                let waits = error.raw_os_error() == Some(libc::ENOBUFS) && room.waits(Instant::now());
                if waits {
                    std::thread::sleep(PAUSE);
                }
                waits
            }
        };
        let mut failed = 0;
        for burst in frames.chunks(BURST) {
            failed += sys::send_frames(out, burst, &mut again);
            if burst.len() == BURST {
                std::thread::sleep(PAUSE);
            }
        }
        failed
    }
}

/// Containers have no such file; but runtimes let them use the device (runc 1.2.0 to 1.2.3 do not).
fn open_tun() -> io::Result<OwnedFd> {
    let mut refused = io::Error::from_raw_os_error(libc::ENOENT);
    for root in node::roots() {
        match open_character_device(&format!("{root}/dev/net/tun"), TUN) {
            Ok(tun) => return Ok(tun),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Looks before it opens: a path in another's file system may be anything.
fn open_character_device(path: &str, (major, minor): (u32, u32)) -> io::Result<OwnedFd> {
    let found = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != makedev(major, minor) {
        return Err(io::Error::other("it is another file"));
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// The Ethernet device by which the target reaches others.
fn only_device(control: &OwnedFd) -> Result<String, Refusal> {
    let names = sys::device_names().map_err(|error| Refusal::egress("listing network devices", &error))?;
    let mut candidates = names.into_iter().filter(|name| {
        let is_ethernet = Device::named(name).hardware(control).is_ok_and(|(kind, _)| kind == ARPHRD_ETHER);
        is_ethernet && name != NAME && Device::named(name).up(control).unwrap_or(false)
    });
    match (candidates.next(), candidates.next()) {
        (Some(device), None) => Ok(device),
        (None, _) => Err(Refusal::order("the target has no Ethernet device that is up: what it sends cannot be delayed".into())),
        (Some(first), Some(second)) => Err(Refusal::order(format!(
            "the target has several network devices ({first}, {second}): delaying what it sends works with one; delay what it receives instead"
        ))),
    }
}
