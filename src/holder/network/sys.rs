//! The system calls of the engine: sockets, clock, waiting, scheduling. The only file of the engine with `unsafe`.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::arrival::Read;
use super::netlink::{Answer, Message, Writer, messages};

/// Largest datagram that netlink sends us in answer to a request.
const ANSWER_MAX: usize = 64 << 10;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn checked_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Nanoseconds that only ever grow.
pub fn now() -> u64 {
    nanoseconds(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970, by which the kernel stamps packets. Anyone may set it.
fn of_day() -> u64 {
    nanoseconds(libc::CLOCK_REALTIME)
}

/// When packets were read that have just been read.
pub fn read_now() -> Read {
    // In this order: a pause between the two makes packets later, not earlier.
    let of_day = of_day();
    Read { at: now(), of_day }
}

fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours. Both clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    nanoseconds_of(time)
}

fn nanoseconds_of(time: libc::timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// # Errors
/// The kernel's, among them that this process may not, or that there is no such socket in this kernel.
pub fn socket(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed; a new descriptor is owned by nobody else.
    let fd = checked(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn set_option(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: i32) -> io::Result<()> {
    let length = mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` lives through the call and is as long as is said.
    checked(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) }).map(drop)
}

/// The same file under a number above `floor`. At the end of a process the kernel closes the highest number first.
pub fn above(fd: OwnedFd, floor: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > floor {
        return Ok(fd);
    }
    // SAFETY: no memory is passed; the duplicate is ours alone, the original is closed on return.
    let duplicate = checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, floor + 1) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// Waits until one of the files can be read or has ended, or until `until`. The answer has one entry for each.
pub fn wait<const N: usize>(files: [Option<BorrowedFd<'_>>; N], until: u64) -> io::Result<[bool; N]> {
    let mut polled =
        files.map(|file| libc::pollfd { fd: file.map_or(-1, |file| file.as_raw_fd()), events: libc::POLLIN, revents: 0 });
    let rest = until.saturating_sub(now());
    let timeout = libc::timespec { tv_sec: (rest / 1_000_000_000) as _, tv_nsec: (rest % 1_000_000_000) as _ };
    // SAFETY: the array and the timeout live through the call; its length is N.
    match checked(unsafe { libc::ppoll(polled.as_mut_ptr(), N as libc::nfds_t, &raw const timeout, std::ptr::null()) }) {
        Ok(_) => Ok(polled.map(|file| file.revents != 0)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
    }
}

/// Lets timers of this thread fire when they are due, instead of up to 50 µs later.
pub fn precise_timers() {
    // SAFETY: no memory is passed. A kernel that refuses leaves the default.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
}

/// Lets this thread run ahead of all ordinary ones; children are ordinary again.
///
/// # Errors
/// Without CAP_SYS_NICE, or in a cgroup without real-time budget.
pub fn real_time() -> io::Result<()> {
    // The lowest: ahead of everything that is not real-time itself, behind everything that is.
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: `parameter` lives through the call.
    checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameter) }).map(drop)
}

/// Returns when every processor has left whatever packet it was handling when this was called.
///
/// # Errors
/// On a kernel that cannot: built without it, or with processors that take no interrupts.
pub fn packets_in_hand_are_done() -> io::Result<()> {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: no memory is passed.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}", words.as_ref().map(|words| format!(" ({words})")).unwrap_or_default())]
pub struct Refused {
    pub error: io::Error,
    pub words: Option<String>,
}

impl Refused {
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused { error, words: None }
    }
}

/// A socket to the kernel.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
}

impl Netlink {
    /// # Errors
    /// As [`socket`].
    pub fn open(protocol: libc::c_int) -> io::Result<Self> {
        let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
        // SAFETY: all zero is a valid sockaddr_nl: "choose a number for me".
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        let length = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: `address` lives through the call and is as long as is said.
        checked(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
        set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        // Words with an error: a comfort, absent before Linux 4.12.
        let _ = set_option(&fd, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1);
        Ok(Netlink { fd })
    }

    /// The same, under a number above `floor`.
    pub fn above(self, floor: RawFd) -> io::Result<Self> {
        Ok(Netlink { fd: above(self.fd, floor)? })
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub fn send(&self, writer: &Writer) -> io::Result<()> {
        send(&self.fd, writer.bytes())
    }

    /// Sends a request and reads its answers, which the kernel has written when `send` returns.
    ///
    /// # Errors
    /// The first that the kernel refused, or silence.
    pub fn request(&self, writer: &Writer) -> Result<(), Refused> {
        self.send(writer)?;
        let (mut answered, mut refused) = (false, None);
        let mut buffer = vec![0u8; ANSWER_MAX];
        loop {
            let length = match receive(&self.fd, &mut buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                other => other?,
            };
            for message in messages(&buffer[..length]) {
                answered = true;
                if let Answer::Failed { errno, words } = message.answer() {
                    refused.get_or_insert(Refused { error: io::Error::from_raw_os_error(errno), words });
                }
            }
        }
        match refused {
            Some(refused) => Err(refused),
            None if !answered => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            None => Ok(()),
        }
    }

    /// Sends a question whose answer is a list, and hands each entry to `each`.
    pub fn list(&self, question: &Writer, mut each: impl FnMut(Message<'_>)) -> Result<(), Refused> {
        self.send(question)?;
        let mut buffer = vec![0u8; ANSWER_MAX];
        loop {
            let length = receive(&self.fd, &mut buffer, 0)?;
            for message in messages(&buffer[..length]) {
                match message.answer() {
                    Answer::Message(message) => each(message),
                    Answer::Done => return Ok(()),
                    Answer::Failed { errno, words } => {
                        return Err(Refused { error: io::Error::from_raw_os_error(errno), words });
                    }
                }
            }
        }
    }
}

fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: `bytes` lives through the call and is as long as is said.
    checked_size(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) }).map(drop)
}

fn receive(fd: &OwnedFd, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    // SAFETY: `buffer` lives through the call and is as long as is said.
    checked_size(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) })
}

/// Reads what is there, without waiting. Zero bytes: the other end has closed.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` lives through the call and is as long as is said.
    checked_size(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Room for many datagrams, read with one call.
pub struct Inbox {
    buffers: Vec<Vec<u8>>,
    lengths: Vec<usize>,
    /// Where stamps are asked for: room for one control message each.
    controls: Vec<Control>,
    stamps: Vec<Option<u64>>,
}

/// As much as a `timespec` takes with its header, aligned as that is.
type Control = [u64; 8];

impl Inbox {
    pub fn new(datagrams: usize, bytes_each: usize) -> Self {
        // Each anew, not as copies of one: memory that is never written takes none.
        let buffers = (0..datagrams).map(|_| vec![0; bytes_each]).collect();
        Inbox { buffers, lengths: Vec::with_capacity(datagrams), controls: Vec::new(), stamps: Vec::new() }
    }

    /// The same, with the times at which datagrams came, of a socket with SO_TIMESTAMPNS.
    pub fn stamped(self) -> Self {
        Inbox { controls: vec![[0; 8]; self.buffers.len()], ..self }
    }

    pub fn capacity(&self) -> usize {
        self.buffers.len()
    }

    /// Reads those that are there, without waiting.
    pub fn fill(&mut self, fd: &OwnedFd) -> io::Result<usize> {
        self.lengths.clear();
        self.stamps.clear();
        let mut parts: Vec<libc::iovec> = self
            .buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = parts.iter_mut().map(one_part).collect();
        for (header, control) in headers.iter_mut().zip(&mut self.controls) {
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
        }
        let count = headers.len() as libc::c_uint;
        // SAFETY: each header points at its part and its control, each part at its buffer; all live through the call.
        let received =
            unsafe { libc::recvmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _, std::ptr::null_mut()) };
        match checked(received) {
            Ok(received) => {
                let received = &headers[..received as usize];
                self.lengths.extend(received.iter().map(|header| header.msg_len as usize));
                self.stamps.extend(received.iter().map(|header| stamp(&header.msg_hdr)));
                Ok(self.lengths.len())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(error),
        }
    }

    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers.iter().zip(&self.lengths).map(|(buffer, length)| &buffer[..*length])
    }

    /// When each datagram came, in nanoseconds since 1970.
    pub fn stamps(&self) -> impl Iterator<Item = Option<u64>> {
        self.stamps.iter().copied()
    }
}

fn stamp(header: &libc::msghdr) -> Option<u64> {
    // SAFETY: the kernel has written `msg_controllen` bytes of control messages; none if there was no room for any. The
    // one of this kind is a timespec, perhaps not aligned.
    let time = unsafe {
        let control = libc::CMSG_FIRSTHDR(header);
        let is_time =
            !control.is_null() && (*control).cmsg_level == libc::SOL_SOCKET && (*control).cmsg_type == libc::SCM_TIMESTAMPNS;
        is_time.then(|| libc::CMSG_DATA(control).cast::<libc::timespec>().read_unaligned())
    }?;
    Some(nanoseconds_of(time))
}

fn one_part(part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: all zero is a valid mmsghdr: no address, no parts.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header
}

/// Sends frames with as few calls as it takes. After each, `again` hears that it took some, or why it did not take the
/// next, and says whether to try that one again. Returns how many were refused for good.
pub fn send_frames(fd: &OwnedFd, frames: &[Box<[u8]>], mut again: impl FnMut(Option<&io::Error>) -> bool) -> usize {
    let mut parts: Vec<libc::iovec> =
        frames.iter().map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() }).collect();
    let mut headers: Vec<libc::mmsghdr> = parts.iter_mut().map(one_part).collect();
    let (mut done, mut refused) = (0, 0);
    while done < headers.len() {
        let rest = &mut headers[done..];
        // SAFETY: each header points at its part, each part at its frame, which the kernel only reads; all live through
        // the call.
        match checked(unsafe { libc::sendmmsg(fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0) }) {
            Ok(sent) => {
                done += sent as usize;
                again(None);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if again(Some(&error)) => {}
            Err(_) => {
                done += 1;
                refused += 1;
            }
        }
    }
    refused
}

/// Sends a whole IP packet to the address in it, without waiting.
pub fn send_packet(fd: &OwnedFd, bytes: &[u8], to: IpAddr) -> io::Result<()> {
    match to {
        IpAddr::V4(to) => {
            // SAFETY: all zero is a valid sockaddr_in.
            let mut address: libc::sockaddr_in = unsafe { mem::zeroed() };
            address.sin_family = libc::AF_INET as libc::sa_family_t;
            address.sin_addr.s_addr = u32::from_ne_bytes(to.octets());
            send_to(fd, bytes, &address)
        }
        IpAddr::V6(to) => {
            // SAFETY: all zero is a valid sockaddr_in6.
            let mut address: libc::sockaddr_in6 = unsafe { mem::zeroed() };
            address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            address.sin6_addr.s6_addr = to.octets();
            send_to(fd, bytes, &address)
        }
    }
}

fn send_to<A>(fd: &OwnedFd, bytes: &[u8], address: &A) -> io::Result<()> {
    let length = mem::size_of::<A>() as libc::socklen_t;
    let address: *const A = address;
    // SAFETY: bytes and address live through the call and are as long as is said.
    checked_size(unsafe {
        libc::sendto(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT, address.cast(), length)
    })
    .map(drop)
}

/// An Ethernet device as `ioctl` names it.
pub struct Device {
    request: libc::ifreq,
}

impl Device {
    pub fn named(name: &str) -> Self {
        // SAFETY: all zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        let last = request.ifr_name.len() - 1;
        for (place, byte) in request.ifr_name[..last].iter_mut().zip(name.bytes()) {
            *place = byte as libc::c_char;
        }
        Device { request }
    }

    fn ask(&mut self, through: &OwnedFd, what: libc::Ioctl) -> io::Result<()> {
        // SAFETY: each request used here takes an ifreq, and this one and what it points at live through the call.
        checked(unsafe { libc::ioctl(through.as_raw_fd(), what, &raw mut self.request) }).map(drop)
    }

    pub fn index(mut self, through: &OwnedFd) -> io::Result<u32> {
        self.ask(through, libc::SIOCGIFINDEX as libc::Ioctl)?;
        // SAFETY: SIOCGIFINDEX has filled in this member.
        Ok(unsafe { self.request.ifr_ifru.ifru_ifindex } as u32)
    }

    pub fn mtu(mut self, through: &OwnedFd) -> io::Result<i32> {
        self.ask(through, libc::SIOCGIFMTU as libc::Ioctl)?;
        // SAFETY: SIOCGIFMTU has filled in this member.
        Ok(unsafe { self.request.ifr_ifru.ifru_mtu })
    }

    pub fn set_mtu(mut self, through: &OwnedFd, mtu: i32) -> io::Result<()> {
        self.request.ifr_ifru.ifru_mtu = mtu;
        self.ask(through, libc::SIOCSIFMTU as libc::Ioctl)
    }

    pub fn up(mut self, through: &OwnedFd) -> io::Result<bool> {
        self.ask(through, libc::SIOCGIFFLAGS as libc::Ioctl)?;
        // SAFETY: SIOCGIFFLAGS has filled in this member.
        Ok(i32::from(unsafe { self.request.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0)
    }

    /// ARPHRD type and hardware address.
    pub fn hardware(mut self, through: &OwnedFd) -> io::Result<(u16, [u8; 6])> {
        self.ask(through, libc::SIOCGIFHWADDR as libc::Ioctl)?;
        // SAFETY: SIOCGIFHWADDR has filled in this member.
        let address = unsafe { self.request.ifr_ifru.ifru_hwaddr };
        let mut bytes = [0; 6];
        for (place, byte) in bytes.iter_mut().zip(address.sa_data) {
            *place = byte as u8;
        }
        Ok((address.sa_family, bytes))
    }

    /// Packets that may wait on their way into the device.
    pub fn set_queue_length(mut self, through: &OwnedFd, packets: i32) -> io::Result<()> {
        self.request.ifr_ifru.ifru_metric = packets;
        self.ask(through, libc::SIOCSIFTXQLEN as libc::Ioctl)
    }

    /// Lets the kernel write the tags of VLANs into frames, not beside them.
    pub fn write_tags_into_frames(mut self, through: &OwnedFd) -> io::Result<()> {
        const SIOCETHTOOL: libc::Ioctl = 0x8946;
        // linux/ethtool.h, struct ethtool_value. A TAP has no other of these flags.
        const ETHTOOL_SFLAGS: u32 = 0x26;
        let mut none = [ETHTOOL_SFLAGS, 0];
        self.request.ifr_ifru.ifru_data = none.as_mut_ptr().cast();
        self.ask(through, SIOCETHTOOL)
    }

    /// Up, and never asking for addresses of neighbours.
    pub fn set_up(mut self, through: &OwnedFd) -> io::Result<()> {
        self.request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_NOARP) as libc::c_short;
        self.ask(through, libc::SIOCSIFFLAGS as libc::Ioctl)
    }

    /// Makes `tun` this device: Ethernet frames with a virtio header in front, gone when it is closed.
    pub fn make_tap(mut self, tun: &OwnedFd) -> io::Result<()> {
        const TUNSETIFF: libc::Ioctl = 0x4004_54ca_u32 as libc::Ioctl;
        self.request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        self.ask(tun, TUNSETIFF)
    }
}

/// Says what the reader of a TAP takes: superpackets and unfinished checksums, or none.
pub fn set_offloads(tun: &OwnedFd, superpackets: bool) -> io::Result<()> {
    const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0_u32 as libc::Ioctl;
    // TUN_F_CSUM, TSO4, TSO6, TSO_ECN; USO4, USO6 from Linux 6.2 on.
    let kinds: &[libc::c_ulong] = if superpackets { &[0x6f, 0x0f] } else { &[0] };
    let mut result = Ok(());
    for kind in kinds {
        // SAFETY: the argument is a number, not memory.
        result = checked(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETOFFLOAD, *kind) }).map(drop);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Lets a TAP drop whatever is sent into it, after sockets that listen to it have seen it.
pub fn drop_all(tun: &OwnedFd) -> io::Result<()> {
    const TUNATTACHFILTER: libc::Ioctl = 0x4010_54d5_u32 as libc::Ioctl;
    // "Of each frame keep the first 0 bytes."
    let mut code = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: the program and its code live through the call, which copies them.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), TUNATTACHFILTER, &raw const program) }).map(drop)
}

/// Names of all network devices here.
pub fn device_names() -> io::Result<Vec<String>> {
    // SAFETY: the list is ours until freed, and ends with an entry of index 0; names are C strings.
    unsafe {
        let list = libc::if_nameindex();
        if list.is_null() {
            return Err(io::Error::last_os_error());
        }
        let mut names = Vec::new();
        let mut entry = list;
        while (*entry).if_index != 0 {
            names.push(std::ffi::CStr::from_ptr((*entry).if_name).to_string_lossy().into_owned());
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
        Ok(names)
    }
}

/// Sends whole frames by one device.
pub fn bind_to_device(fd: &OwnedFd, index: u32) -> io::Result<()> {
    bind_packets(fd, index, 0)
}

/// Receives all frames of one device.
pub fn listen_to_device(fd: &OwnedFd, index: u32) -> io::Result<()> {
    bind_packets(fd, index, libc::ETH_P_ALL as u16)
}

fn bind_packets(fd: &OwnedFd, index: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as libc::c_int;
    let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` lives through the call and is as long as is said.
    checked(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) }).map(drop)
}

/// Frames that came for this socket and found no room, since this was last asked.
pub fn frames_dropped(fd: &OwnedFd) -> io::Result<u64> {
    let mut counted = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = mem::size_of::<libc::tpacket_stats>() as libc::socklen_t;
    let (level, option) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
    // SAFETY: both live through the call; no more is written than `length` says.
    checked(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut counted).cast(), &raw mut length) })?;
    Ok(u64::from(counted.tp_drops))
}

/// Moves this thread into a network namespace of its own.
pub fn leave_network_namespace() -> io::Result<()> {
    // SAFETY: no memory is passed.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}
