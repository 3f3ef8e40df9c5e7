//! Two network namespaces with a cable between them, and what is sent over it. One end is the target of a fault, the
//! other is everybody else.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Which end of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Target,
    Peer,
}

/// The cable. The target is 10.77.0.2 and fd77::2; the peer 10.77.0.1, .3, .4 and fd77::1, ::3.
pub struct Wire {
    names: [String; 2],
    _alone: MutexGuard<'static, ()>,
}

pub const TARGET: &str = "10.77.0.2";
pub const PEER: &str = "10.77.0.1";
pub const OTHER_PEER: &str = "10.77.0.3";
pub const TARGET6: &str = "fd77::2";
pub const PEER6: &str = "fd77::1";
pub const TARGET_IN_VLAN: &str = "10.78.0.2";
pub const OTHER_PEER6: &str = "fd77::3";

/// One cable at a time: each test fills the machine.
static ALONE: Mutex<()> = Mutex::new(());
static COUNT: AtomicU32 = AtomicU32::new(0);
static NOT_RUN: Once = Once::new();

impl Wire {
    /// `None`, and a loud word past the test harness, where this is not allowed.
    pub fn lay() -> Option<Wire> {
        if !rustix::process::geteuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
            NOT_RUN.call_once(|| {
                let edge = "#".repeat(80);
                let says = "##  NOT RUN: the network faults against real packets.\n##  They need root and iproute2.";
                let _ = writeln!(std::io::stderr(), "\n{edge}\n{says}\n{edge}");
            });
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let names = ["target", "peer"].map(|end| format!("gameday-{}-{number}-{end}", std::process::id()));
        let wire = Wire { names, _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner) };
        let [target, peer] = &wire.names;
        for name in &wire.names {
            ip(&format!("netns add {name}"));
        }
        ip(&format!("link add eth0 netns {target} type veth peer name eth0 netns {peer}"));
        for (name, addresses) in [
            (target, &["10.77.0.2/24", "fd77::2/64"][..]),
            (peer, &["10.77.0.1/24", "10.77.0.3/24", "10.77.0.4/24", "fd77::1/64", "fd77::3/64"][..]),
        ] {
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                ip(&format!("-n {name} addr add {address} dev eth0{nodad}"));
            }
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set eth0 up"));
        }
        // The kernel takes up to a second to find the cable plugged in, and longer for neighbours that were asked before.
        for (target, peer) in [(TARGET, PEER), (TARGET, OTHER_PEER), (TARGET6, PEER6), (TARGET6, OTHER_PEER6)] {
            wire.until_they_hear_each_other(target.parse().unwrap(), peer.parse().unwrap());
        }
        Some(wire)
    }

    fn until_they_hear_each_other(&self, target: IpAddr, peer: IpAddr) {
        let there = self.at(End::Target, move || UdpSocket::bind(SocketAddr::new(target, 0)).unwrap()).join().unwrap();
        let here = self.at(End::Peer, move || UdpSocket::bind(SocketAddr::new(peer, 0)).unwrap()).join().unwrap();
        for socket in [&there, &here] {
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut byte = [0];
        loop {
            let _ = here.send_to(&byte, there.local_addr().unwrap());
            if there.recv(&mut byte).is_ok() {
                let _ = there.send_to(&byte, here.local_addr().unwrap());
                if here.recv(&mut byte).is_ok() {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "{target} and {peer} never heard each other");
        }
    }

    pub fn name(&self, end: End) -> &str {
        &self.names[usize::from(end == End::Peer)]
    }

    /// Traffic control at one end.
    pub fn tc(&self, end: End, arguments: &str) {
        run("tc", &format!("-n {} {arguments}", self.name(end)));
    }

    /// What the kernel counts at one end of what it dropped and why, for the words of a test that fails.
    pub fn counters(&self, end: End) -> String {
        let read = || {
            ["softnet_stat", "snmp", "snmp6", "dev"]
                .map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
        };
        self.at(end, read).join().unwrap().join("\n")
    }

    /// A virtual LAN on the cable, in which the target is 10.78.0.2 and the peer 10.78.0.1.
    pub fn lay_vlan(&self) {
        for (name, address) in self.names.iter().zip([TARGET_IN_VLAN, "10.78.0.1"]) {
            ip(&format!("-n {name} link add link eth0 name eth0.7 type vlan id 7"));
            ip(&format!("-n {name} addr add {address}/24 dev eth0.7"));
            ip(&format!("-n {name} link set eth0.7 up"));
        }
    }

    /// Up or down.
    pub fn link(&self, end: End, state: &str) {
        ip(&format!("-n {} link set eth0 {state}", self.name(end)));
    }

    /// One end says that it cannot cut the superpackets of TCP into packets.
    pub fn without_offload(&self, end: End) {
        let set = || {
            // Not in libc: linux/ethtool.h, struct ethtool_value.
            const ETHTOOL_STSO: u32 = 0x1f;
            const SIOCETHTOOL: libc::Ioctl = 0x8946;
            let mut value = [ETHTOOL_STSO, 0];
            // SAFETY: all zero is a valid ifreq.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (place, byte) in request.ifr_name.iter_mut().zip(b"eth0") {
                *place = *byte as libc::c_char;
            }
            request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            // SAFETY: the request and its value live through the call.
            let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        };
        self.at(end, set).join().unwrap();
    }

    /// Does something at one end, in a thread of its own.
    pub fn at<T: Send + 'static>(&self, end: End, what: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let name = self.name(end).to_owned();
        std::thread::spawn(move || {
            enter(&name);
            what()
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

fn ip(arguments: &str) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Moves this thread into a namespace by its name.
pub fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    let network = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(network)).unwrap();
}

/// Packets of UDP to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub from: End,
    /// Of the other end.
    pub to: IpAddr,
    pub source: IpAddr,
    pub per_second: f64,
    pub count: u64,
    pub size: usize,
    /// Nothing comes any more when nothing has come for this long after the last was sent.
    pub quiet: Duration,
}

impl Load {
    pub fn into_target(per_second: f64, count: u64) -> Load {
        let (to, source) = (TARGET.parse().unwrap(), PEER.parse().unwrap());
        Load { from: End::Peer, to, source, per_second, count, size: 64, quiet: Duration::from_millis(500) }
    }

    pub fn out_of_target(per_second: f64, count: u64) -> Load {
        let Load { to, source, .. } = Load::into_target(per_second, count);
        Load { from: End::Target, to: source, source: to, ..Load::into_target(per_second, count) }
    }

    pub fn six(self) -> Load {
        let other = |address: IpAddr| if address == IpAddr::from([10, 77, 0, 2]) { TARGET6 } else { PEER6 };
        Load { to: other(self.to).parse().unwrap(), source: other(self.source).parse().unwrap(), ..self }
    }
}

/// One that came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub sequence: u64,
    /// Real time in ns. What comes to the target is stamped by the process that receives it, because the kernel's own
    /// stamp is older than the queue; what comes to the peer is stamped by the kernel.
    pub sent: u64,
    pub came: u64,
    pub intact: bool,
}

impl Arrival {
    pub fn delay_us(&self) -> f64 {
        (self.came as f64 - self.sent as f64) / 1_000.0
    }
}

#[derive(Debug)]
pub struct Outcome {
    /// Sends that were refused: the sender was told.
    pub refused: u64,
    pub sent: u64,
    pub seconds: f64,
    pub arrivals: Vec<Arrival>,
}

impl Outcome {
    /// Distinct packets that came.
    pub fn distinct(&self) -> u64 {
        let mut sequences: Vec<u64> = self.arrivals.iter().map(|arrival| arrival.sequence).collect();
        sequences.sort_unstable();
        sequences.dedup();
        sequences.len() as u64
    }

    pub fn lost(&self) -> u64 {
        self.sent - self.distinct()
    }

    /// The sequence numbers that did not come.
    pub fn missing(&self) -> Vec<Range<u64>> {
        let mut sequences: Vec<u64> = self.arrivals.iter().map(|arrival| arrival.sequence).collect();
        sequences.extend([self.sent]);
        sequences.sort_unstable();
        let mut next = 0;
        let mut missing = Vec::new();
        for sequence in sequences {
            missing.extend((sequence > next).then_some(next..sequence));
            next = sequence + 1;
        }
        missing
    }

    pub fn twice(&self) -> u64 {
        self.arrivals.len() as u64 - self.distinct()
    }

    /// Those that came after one that was sent after them.
    pub fn overtaken(&self) -> u64 {
        let mut latest = 0;
        let mut overtaken = 0;
        for arrival in &self.arrivals {
            overtaken += u64::from(arrival.sequence < latest);
            latest = latest.max(arrival.sequence);
        }
        overtaken
    }

    pub fn delays_us(&self) -> Vec<f64> {
        let mut delays: Vec<f64> = self.arrivals.iter().map(Arrival::delay_us).collect();
        delays.sort_by(f64::total_cmp);
        delays
    }
}

pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    sorted.get(((sorted.len().max(1) - 1) as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, variance.sqrt())
}

const FILLER: u8 = 0x5a;

/// Starts a load; join it for what came of it.
pub fn send(wire: &Wire, load: Load) -> JoinHandle<Outcome> {
    let to_end = if load.from == End::Peer { End::Target } else { End::Peer };
    let done = Arc::new(AtomicBool::new(false));
    let (bound, port) = mpsc::channel();
    let receiver = wire.at(to_end, {
        let done = done.clone();
        move || {
            let socket = UdpSocket::bind(SocketAddr::new(load.to, 0)).unwrap();
            // Before the first is sent: a processor that sends may let nobody receive for longer than the default holds.
            set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 256 << 20);
            set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
            bound.send(socket.local_addr().unwrap().port()).unwrap();
            receive(&socket, &done, &load)
        }
    });
    let port = port.recv().unwrap();
    let sender = wire.at(load.from, move || {
        let socket = UdpSocket::bind(SocketAddr::new(load.source, 0)).unwrap();
        set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64 << 20);
        socket.connect(SocketAddr::new(load.to, port)).unwrap();
        let outcome = send_paced(&socket, &load);
        done.store(true, Ordering::Relaxed);
        outcome
    });
    std::thread::spawn(move || {
        let (sent, refused, seconds) = sender.join().unwrap();
        Outcome { refused, sent, seconds, arrivals: receiver.join().unwrap() }
    })
}

fn send_paced(socket: &UdpSocket, load: &Load) -> (u64, u64, f64) {
    real_time_scheduling(1);
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
    let mut bytes = vec![FILLER; load.size.max(16)];
    let (mut sent, mut refused) = (0, 0);
    let began = Instant::now();
    while sent + refused < load.count {
        let due = ((began.elapsed().as_secs_f64() * load.per_second) as u64 + 1).min(load.count);
        while sent + refused < due {
            bytes[..8].copy_from_slice(&(sent + refused).to_ne_bytes());
            bytes[8..16].copy_from_slice(&real_time().to_ne_bytes());
            match socket.send(&bytes) {
                Ok(_) => sent += 1,
                Err(_) => refused += 1,
            }
        }
        let next = Duration::from_secs_f64((sent + refused) as f64 / load.per_second);
        std::thread::sleep(next.saturating_sub(began.elapsed()).max(Duration::from_micros(20)));
    }
    (sent, refused, began.elapsed().as_secs_f64())
}

fn real_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// So that what is measured is the fault and not its measurer's wait for a processor.
pub fn real_time_scheduling(priority: i32) {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: `parameter` lives through the call. Where it is refused, times are less exact.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
}

fn set_option(socket: &impl AsRawFd, level: i32, option: i32, value: i32) {
    // SAFETY: `value` lives through the call and is as long as is said.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Receives until the sender is done and all is quiet.
fn receive(socket: &UdpSocket, done: &AtomicBool, load: &Load) -> Vec<Arrival> {
    const MANY: usize = 64;
    const ROOM: usize = 2048;
    const CONTROL: usize = 64;
    real_time_scheduling(1);
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut arrivals = Vec::new();
    let mut buffers = vec![[0u8; ROOM]; MANY];
    let mut controls = vec![[0u64; CONTROL / 8]; MANY];
    let mut last = Instant::now();
    loop {
        let mut parts: Vec<libc::iovec> =
            buffers.iter_mut().map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: ROOM }).collect();
        let mut headers: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .zip(&mut controls)
            .map(|(part, control)| {
                // SAFETY: all zero is a valid mmsghdr.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = part;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = CONTROL;
                header
            })
            .collect();
        // SAFETY: headers, parts, buffers and controls live through the call and are as long as is said.
        let count = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), MANY as u32, libc::MSG_WAITFORONE, std::ptr::null_mut())
        };
        if count <= 0 {
            if done.load(Ordering::Relaxed) && last.elapsed() > load.quiet {
                return arrivals;
            }
            continue;
        }
        last = Instant::now();
        let now = real_time();
        for (header, buffer) in headers.iter().zip(&buffers).take(count as usize) {
            let bytes = &buffer[..header.msg_len as usize];
            // SAFETY: the kernel has written a timespec behind the first control header: it was asked for one.
            let stamp = unsafe {
                let control = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
                assert!(!control.is_null());
                std::ptr::read_unaligned(libc::CMSG_DATA(control).cast::<libc::timespec>())
            };
            arrivals.push(Arrival {
                sequence: u64::from_ne_bytes(bytes[..8].try_into().unwrap()),
                sent: u64::from_ne_bytes(bytes[8..16].try_into().unwrap()),
                came: if load.from == End::Peer { now } else { stamp.tv_sec as u64 * 1_000_000_000 + stamp.tv_nsec as u64 },
                intact: bytes[16..].iter().all(|byte| *byte == FILLER),
            });
        }
    }
}

/// Bytes that differ at each place of a stream.
fn pattern(at: usize) -> u8 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// Sends `length` bytes by TCP to the target and has them sent back. Whether each is what and where it should be, and
/// how long it took.
pub fn stream_there_and_back(wire: &Wire, target: &str, length: usize) -> Result<Duration, String> {
    let address: IpAddr = target.parse().unwrap();
    let (bound, port) = mpsc::channel();
    let server = wire.at(End::Target, move || {
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).unwrap();
        bound.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let wrong = receive_pattern(&mut stream, length)?;
        send_pattern(&mut stream, length)?;
        Ok::<usize, String>(wrong)
    });
    let port = port.recv().unwrap();
    let client = wire.at(End::Peer, move || {
        let began = Instant::now();
        let mut stream = TcpStream::connect(SocketAddr::new(address, port)).map_err(|error| error.to_string())?;
        send_pattern(&mut stream, length)?;
        let wrong = receive_pattern(&mut stream, length)?;
        Ok::<(usize, Duration), String>((wrong, began.elapsed()))
    });
    let (wrong_back, took) = client.join().unwrap()?;
    match server.join().unwrap()? + wrong_back {
        0 => Ok(took),
        wrong => Err(format!("{wrong} bytes differ")),
    }
}

/// More than a stream here ever has under way.
const RECEIVE_BUFFER: i32 = 16 << 20;

/// Megabits a second that one TCP stream carries from this end to the other, after `warm_up` and for `time`. What it may
/// have under way is bounded by the sender's `buffer`, in bytes: that of a receiver bounds by the memory that packets take,
/// and it is another for each way on which they come.
pub fn stream_mbit_per_s(wire: &Wire, from: End, buffer: i32, warm_up: Duration, time: Duration) -> f64 {
    let (to, address) = if from == End::Peer { (End::Target, TARGET) } else { (End::Peer, PEER) };
    let (bound, port) = mpsc::channel();
    let receiver = wire.at(to, move || {
        let listener = TcpListener::bind((address, 0)).unwrap();
        set_option(&listener, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER);
        bound.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 1 << 16];
        let mut until = |end: Instant, stream: &mut TcpStream| {
            let mut count = 0;
            while Instant::now() < end {
                count += stream.read(&mut bytes).unwrap();
            }
            count
        };
        until(Instant::now() + warm_up, &mut stream);
        let began = Instant::now();
        let count = until(began + time, &mut stream);
        count as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64()
    });
    let port = port.recv().unwrap();
    let sender = wire.at(from, move || {
        let mut stream = TcpStream::connect((address, port)).unwrap();
        set_option(&stream, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, buffer);
        let bytes = vec![FILLER; 1 << 16];
        // Until the receiver has enough and closes.
        while stream.write_all(&bytes).is_ok() {}
    });
    let rate = receiver.join().unwrap();
    sender.join().unwrap();
    rate
}

fn send_pattern(stream: &mut TcpStream, length: usize) -> Result<(), String> {
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let bytes: Vec<u8> = (0..length).map(pattern).collect();
    stream.write_all(&bytes).map_err(|error| format!("sending: {error}"))
}

fn receive_pattern(stream: &mut TcpStream, length: usize) -> Result<usize, String> {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map_err(|error| format!("receiving: {error}"))?;
    Ok(bytes.iter().enumerate().filter(|(at, byte)| **byte != pattern(*at)).count())
}
