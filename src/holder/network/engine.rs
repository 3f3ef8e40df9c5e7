//! The loop: everything that the engine does to the world, and no decision about a packet.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::alarm::Alarm;
use super::arrival::Arrivals;
use super::bite::Bite;
use super::fate::RATE_BACKLOG_NS;
use super::line::Line;
use super::netlink::{Answer, Writer};
use super::order::{Aim, Direction, Effect, NetworkOrder, QueueBy, Shape};
use super::plan::Plan;
use super::queue::{self, Copy, Setup};
use super::ruleset::{Counted, MARK, Ruleset, TABLE, hash_seed};
use super::sys::{self, Inbox, Netlink, Refused};
use super::tap::{self, Tap};
use super::{Failure, Refusal, flow, netlink, nftables, packet, sockets};

/// Queue numbers that are tried, from the first that is free. Chosen far from those of common programs.
const QUEUES: std::ops::Range<u16> = 64_713..64_745;
/// Messages from the kernel that wait for us. When it is full, packets pass unharmed.
const RECEIVE_BUFFER: i32 = 32 << 20;
const SEND_BUFFER: i32 = 4 << 20;
/// Packets a second that must fit into the queue for as long as they are delayed.
const PACKETS_PER_S: u64 = 200_000;
/// The kernel's own bound on what waits in a queue.
const WAITING_MAX: u64 = 65_536;
/// Room for what comes while we are not running. Also the bound on what a hung holder can stop: above, packets pass.
const WAITING_MIN: u64 = 8_192;
/// How often packets are taken in before those that are due are let out.
const ROUNDS: usize = 4;
const REPORT_NS: u64 = 1_000_000_000;
/// An update is a line of JSON: ten thousand addresses of 45 characters, and some.
const UPDATE_BYTES_MAX: usize = 1 << 20;

/// A network fault in force, from [`Engine::open`] until it is dropped.
///
/// # Guarantees
/// When the process ends, however it ends, the kernel takes back the table, the queue, the TAP and what waits in them.
/// The files are numbered so that it closes the queue first, then the table, then the TAP: packets find no queue and
/// pass, and no rule ever sends them into a TAP that is gone.
pub struct Engine {
    // Dropped in this order too.
    queue: Option<Queue>,
    table: Netlink,
    tap: Option<Tapped>,
    raw: Option<Raw>,
    sockets: Option<Netlink>,
    rulesets: Vec<Ruleset>,
    aim: Aim,
    share: Option<(u32, u32)>,
    reset: u64,
    queue_by: Option<QueueBy>,
    real_time: bool,
    began: u64,
}

struct Queue {
    socket: Netlink,
    inbox: Inbox,
    /// Queue numbers and what is done with their packets.
    lines: Vec<(u16, Line)>,
    writer: Writer,
    /// Open where the times of packets matter.
    _stamps: Option<OwnedFd>,
    arrivals: Arrivals,
}

struct Tapped {
    tap: Tap,
    arrivals: Arrivals,
    line: Line,
}

/// For second copies of packets.
struct Raw {
    four: OwnedFd,
    six: OwnedFd,
}

impl Engine {
    /// Puts the fault in force. It does nothing to packets in queues until [`Engine::run`], which must follow at once.
    ///
    /// # Assumes
    /// This thread is in the target's network namespace, with CAP_NET_ADMIN; CAP_NET_RAW if packets are duplicated or
    /// what the target sends is delayed; CAP_SYS_NICE for exact times. Afterwards CAP_NET_ADMIN is enough.
    ///
    /// # Errors
    /// Why nothing was done.
    pub fn open(order: &NetworkOrder) -> Result<Self, Refusal> {
        Engine::open_on(order, None)
    }

    /// As [`Engine::open`], with the device by which packets leave; absent: the only one.
    pub fn open_on(order: &NetworkOrder, device: Option<&str>) -> Result<Self, Refusal> {
        order.check()?;
        let plan = Plan::of(order);
        let tap = if plan.tap { Some(Tap::open(device, !plan.per_packet)?) } else { None };
        let raw = if plan.raw { Some(Raw::open().map_err(|error| Refusal::kernel("raw sockets", error))?) } else { None };
        let floor = tap.as_ref().map_or(2, Tap::highest);
        let table = Netlink::open(libc::NETLINK_NETFILTER)
            .and_then(|table| table.above(floor))
            .map_err(|error| Refusal::kernel("a netfilter socket", error))?;
        set_buffers(&table).map_err(|error| Refusal::kernel("a netfilter socket", error))?;
        refuse_second_fault(&table)?;

        let mut queue = None;
        let mut numbers = Vec::new();
        if let Some(shape) = plan.shape.as_ref().filter(|_| !plan.queued.is_empty()) {
            let opened = Queue::open(order, shape, &plan, table.fd().as_raw_fd())?;
            numbers = opened.lines.iter().map(|(number, _)| *number).collect();
            queue = Some(opened);
        }
        let tapped = tap.map(|tap| {
            let line = Line::new(plan.model(order, Direction::Out), plan.undetected());
            Tapped { tap, arrivals: Arrivals::since(sys::now()), line }
        });
        let (rulesets, queue_by) = create(&table, order, &plan, &numbers, tapped.as_ref().map(|tapped| &tapped.tap))?;
        let sockets = match order.effect {
            Effect::Partition => {
                Some(Netlink::open(libc::NETLINK_SOCK_DIAG).map_err(|error| Refusal::kernel("a socket to list sockets", error))?)
            }
            Effect::Shape(_) => None,
        };
        let share = order.flows_percent.map(|percent| (flow::parts(percent), hash_seed(order.seed)));
        sys::precise_timers();
        let real_time = (queue.is_some() || tapped.is_some()) && sys::real_time().is_ok();
        let mut engine = Engine {
            queue,
            table,
            tap: tapped,
            raw,
            sockets,
            rulesets,
            aim: order.aim.clone(),
            share,
            reset: 0,
            queue_by,
            real_time,
            began: sys::now(),
        };
        engine.reset_connections().map_err(|refused| Refusal::kernel("resetting connections", refused.error))?;
        Ok(engine)
    }

    /// How packets reach user space here, if they do.
    pub fn queue_by(&self) -> Option<QueueBy> {
        self.queue_by
    }

    /// Whether this thread runs ahead of others: without, the last percent of packets is up to 2 ms late.
    pub fn is_real_time(&self) -> bool {
        self.real_time
    }

    /// Holds the fault until `stop` can be read or is closed. `updates` brings lines of JSON, each an [`Aim`] that takes
    /// the place of the one before. What was done is told each second, and returned for the whole.
    ///
    /// # Guarantees
    /// On return, also with an error, everything passes, and what waited was let go unharmed: none of it is lost but what
    /// the kernel would not take, which counts as failed. The table itself goes when the engine is dropped.
    ///
    /// # Errors
    /// What made it end before it was stopped.
    pub fn run(
        &mut self,
        mut events: impl FnMut(Bite),
        stop: BorrowedFd<'_>,
        updates: Option<BorrowedFd<'_>>,
    ) -> Result<Bite, Failure> {
        let held = self.hold(&mut events, stop, updates);
        let last = self.bite(true);
        let told = self.tap.as_ref().map_or(0, |tapped| tapped.line.tally.failed);
        let released = self.release();
        held?;
        released?;
        let mut last = last?;
        last.failed += self.failed()? - told;
        Ok(last)
    }

    /// Frames that the target sent and that were not sent on.
    fn failed(&mut self) -> Result<u64, Failure> {
        let Some(Tapped { tap, line, .. }) = &mut self.tap else { return Ok(0) };
        line.tally.failed += tap.dropped()?;
        Ok(line.tally.failed)
    }

    fn hold(
        &mut self,
        events: &mut impl FnMut(Bite),
        stop: BorrowedFd<'_>,
        mut updates: Option<BorrowedFd<'_>>,
    ) -> Result<(), Failure> {
        let mut report_at = sys::now() + REPORT_NS;
        let mut update = Vec::new();
        let mut alarm = Alarm::default();
        loop {
            let more = self.take_in(false)?;
            let next = self.let_out()?;
            let now = sys::now();
            if now >= report_at {
                report_at = now + REPORT_NS;
                events(self.bite(false)?);
            }
            let until = if more { now } else { alarm.before(next, now).unwrap_or(report_at).min(report_at) };
            let queue = self.queue.as_ref().map(|queue| queue.socket.fd().as_fd());
            let tap = self.tap.as_ref().map(|tapped| tapped.tap.fd().as_fd());
            let [_, _, stopped, updated] = sys::wait([queue, tap, Some(stop), updates], until)?;
            if stopped {
                return Ok(());
            }
            if let Some(from) = updates.filter(|_| updated)
                && !self.read_update(from, &mut update)?
            {
                updates = None;
            }
        }
    }

    /// Takes in packets that have come; true if there may be more. `pass` lets them go at once.
    fn take_in(&mut self, pass: bool) -> Result<bool, Failure> {
        let mut more = false;
        if let Some(queue) = &mut self.queue {
            more |= queue.take_in(pass)?;
        }
        if let Some(tapped) = &mut self.tap {
            more |= tapped.take_in()?;
        }
        Ok(more)
    }

    /// Lets out packets whose time has come; returns when the next one's will.
    fn let_out(&mut self) -> Result<Option<u64>, Failure> {
        let mut next: Option<u64> = None;
        if let Some(queue) = &mut self.queue {
            for (number, line) in &mut queue.lines {
                while line.next_at().is_some_and(|at| at <= sys::now()) {
                    let copies = line.let_out(sys::now(), *number, &mut queue.writer);
                    queue.socket.send(&queue.writer)?;
                    queue.writer.clear();
                    line.have_left(sys::now());
                    for copy in copies {
                        let sent = self.raw.as_ref().is_some_and(|raw| raw.send(&copy));
                        if sent { line.tally.duplicated += 1 } else { line.tally.failed += 1 }
                    }
                }
                next = [next, line.next_at()].into_iter().flatten().min();
            }
        }
        if let Some(Tapped { tap, line, .. }) = &mut self.tap {
            while line.next_at().is_some_and(|at| at <= sys::now()) {
                let frames = line.frames_out(sys::now(), tap::IP_OFFSET);
                line.tally.failed += tap.send(&frames) as u64;
                line.have_left(sys::now());
            }
            next = [next, line.next_at()].into_iter().flatten().min();
        }
        Ok(next)
    }

    fn bite(&mut self, whole: bool) -> Result<Bite, Failure> {
        let mut bite = Bite { after_ms: (sys::now() - self.began) / 1_000_000, reset: self.reset, ..Bite::default() };
        for ruleset in &self.rulesets {
            for (chain, counted) in ruleset.counters() {
                let question = nftables::get_rules(ruleset.family(), TABLE, &chain);
                self.table.list(&question, |message| {
                    let packets = nftables::rule_count(message.body).unwrap_or(0);
                    match counted {
                        Counted::Seen => bite.seen += packets,
                        Counted::Hit => bite.hit += packets,
                    }
                })?;
            }
        }
        self.failed()?;
        let lines = self.queue.iter_mut().flat_map(|queue| queue.lines.iter_mut().map(|(_, line)| line));
        for line in lines.chain(self.tap.iter_mut().map(|tapped| &mut tapped.line)) {
            line.report(&mut bite, whole);
        }
        Ok(bite)
    }

    /// Reads part of an update; false at the end of updates.
    fn read_update(&mut self, from: BorrowedFd<'_>, update: &mut Vec<u8>) -> Result<bool, Failure> {
        let mut buffer = [0; 4096];
        let length = match sys::read(from, &mut buffer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(true),
            other => other?,
        };
        update.extend_from_slice(&buffer[..length]);
        while let Some(end) = update.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = update.drain(..=end).collect();
            let aim: Aim = serde_json::from_slice(&line).map_err(|error| Failure::Update(error.to_string()))?;
            self.aim_at(aim)?;
        }
        if update.len() > UPDATE_BYTES_MAX {
            return Err(Failure::Update(format!("longer than {UPDATE_BYTES_MAX} bytes")));
        }
        Ok(length > 0)
    }

    /// Hits others from now on. Packets that wait keep their time.
    ///
    /// # Errors
    /// As the kernel has it; then nothing has changed.
    pub fn aim_at(&mut self, aim: Aim) -> Result<(), Failure> {
        aim.check().map_err(|refusal| Failure::Update(refusal.to_string()))?;
        for ruleset in &mut self.rulesets {
            self.table.request(&ruleset.aim_at(&aim).finish())?;
        }
        self.aim = aim;
        self.reset_connections()?;
        Ok(())
    }

    /// Resets the connections that a partition cuts, so that the target notices now and not at its time-outs. Where what
    /// goes out is cut, the rules drop the RST too: the other end sees what a cut cable shows, nothing.
    fn reset_connections(&mut self) -> Result<(), Refused> {
        let Some(sockets) = &self.sockets else { return Ok(()) };
        for family in [sockets::IPV4, sockets::IPV6] {
            let mut hit = Vec::new();
            let listed = sockets.list(&sockets::list(family), |message| {
                if let Some((id, connection)) = sockets::socket(message.body)
                    && self.aim.hits(&connection)
                    && self.share.is_none_or(|(parts, seed)| {
                        let ports = Some((connection.near_port, connection.far_port));
                        flow::part(&flow::key(connection.near, connection.far, ports), seed) < parts
                    })
                    && !connection.near.is_loopback()
                {
                    hit.push(id);
                }
            });
            match listed {
                // A kernel without IPv6 has no such sockets.
                Err(refused) if family == sockets::IPV6 && refused.errno() == libc::ENOENT => {}
                other => other?,
            }
            for id in hit {
                match sockets.request(&sockets::destroy(&id)) {
                    Ok(()) => self.reset += 1,
                    // Closed meanwhile.
                    Err(refused) if refused.errno() == libc::ENOENT => {}
                    Err(refused) => return Err(refused),
                }
            }
        }
        Ok(())
    }

    /// Lets go of everything: what waits, then, when nothing more is sent here, what came meanwhile.
    fn release(&mut self) -> Result<(), Failure> {
        self.let_go()?;
        for ruleset in &self.rulesets {
            self.table.request(&ruleset.let_pass().finish())?;
        }
        self.take_all()?;
        // A packet may still be on its way through the rules that were there before.
        if sys::packets_in_hand_are_done().is_err() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        self.take_all()
    }

    fn take_all(&mut self) -> Result<(), Failure> {
        while self.take_in(true)? {}
        self.let_go()
    }

    fn let_go(&mut self) -> Result<(), Failure> {
        if let Some(queue) = &mut self.queue {
            for (number, line) in &mut queue.lines {
                line.release(*number, &mut queue.writer);
                if !queue.writer.is_empty() {
                    queue.socket.send(&queue.writer)?;
                    queue.writer.clear();
                }
            }
        }
        if let Some(Tapped { tap, line, .. }) = &mut self.tap {
            line.tally.failed += tap.send(&line.release_frames()) as u64;
        }
        Ok(())
    }
}

/// Whether this kernel can reset connections.
///
/// # Errors
/// The reason why not.
pub fn try_reset() -> Result<(), Refusal> {
    let what = "resetting connections";
    let sockets = Netlink::open(libc::NETLINK_SOCK_DIAG).map_err(|error| Refusal::kernel(what, error))?;
    match sockets.request(&sockets::destroy(&sockets::nobody())) {
        Ok(()) => Ok(()),
        Err(refused) if refused.errno() == libc::ENOENT => Ok(()),
        Err(refused) => Err(Refusal::kernel(what, refused.error)),
    }
}

fn set_buffers(socket: &Netlink) -> io::Result<()> {
    sys::set_option(socket.fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
    sys::set_option(socket.fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)
}

fn refuse_second_fault(table: &Netlink) -> Result<(), Refusal> {
    for family in [nftables::Family::Inet, nftables::Family::Netdev] {
        match table.request(&nftables::get_table(family, TABLE)) {
            Ok(()) => return Err(Refusal::SecondFault),
            Err(refused) if refused.errno() == libc::ENOENT => {}
            Err(refused) => return Err(Refusal::kernel("nftables", refused.error)),
        }
    }
    Ok(())
}

/// Makes the tables. By xtables where the kernel has no `queue` expression of its own.
fn create(
    table: &Netlink,
    order: &NetworkOrder,
    plan: &Plan,
    numbers: &[u16],
    tap: Option<&Tap>,
) -> Result<(Vec<Ruleset>, Option<QueueBy>), Refusal> {
    let ways = match order.queue_by {
        Some(by) => vec![by],
        None => vec![QueueBy::Native, QueueBy::Xtables],
    };
    let last = ways[ways.len() - 1];
    for by in ways {
        let mut rulesets = plan.rulesets(order, numbers, tap, by);
        let uses_queue = rulesets.iter().any(Ruleset::uses_queue);
        let made = rulesets.iter_mut().try_for_each(|ruleset| table.request(&ruleset.create(&order.aim).finish()));
        match made {
            Ok(()) => return Ok((rulesets, uses_queue.then_some(by))),
            Err(refused) if refused.errno() == libc::ENOENT && by != last && uses_queue => {}
            Err(refused) if matches!(refused.errno(), libc::EEXIST | libc::EBUSY) => return Err(Refusal::SecondFault),
            Err(refused) => {
                let what = refused.words.clone().unwrap_or_default();
                return Err(Refusal::kernel(&format!("the rules of the fault {what}"), refused.error));
            }
        }
    }
    Err(Refusal::kernel("handing packets to user space", io::Error::from_raw_os_error(libc::ENOENT)))
}

impl Queue {
    fn open(order: &NetworkOrder, shape: &Shape, plan: &Plan, floor: i32) -> Result<Self, Refusal> {
        let refused = |error: io::Error| Refusal::kernel("a queue for packets", error);
        let socket = Netlink::open(libc::NETLINK_NETFILTER).and_then(|socket| socket.above(floor)).map_err(refused)?;
        set_buffers(&socket).map_err(refused)?;
        sys::set_option(socket.fd(), libc::SOL_NETLINK, libc::NETLINK_NO_ENOBUFS, 1).map_err(refused)?;
        let copy = if shape.needs_bytes() { Copy::Whole } else { Copy::Length };
        let setup = Setup { copy, superpackets: !plan.per_packet, waiting_max: waiting_max(shape) };
        let mut free = QUEUES;
        let mut lines = Vec::new();
        for direction in &plan.queued {
            let number = loop {
                let Some(number) = free.next() else {
                    return Err(Refusal::order("all queue numbers that are tried are taken in this network namespace".into()));
                };
                match socket.request(&queue::bind(number, setup)) {
                    Ok(()) => break number,
                    // Another's. Our own right to ask was seen before.
                    Err(refused) if matches!(refused.errno(), libc::EPERM | libc::EBUSY) => {}
                    Err(refused) => return Err(Refusal::kernel("a queue for packets", refused.error)),
                }
            };
            lines.push((number, Line::new(plan.model(order, *direction), plan.undetected())));
        }
        let inbox = match copy {
            Copy::Length => Inbox::new(128, 1 << 10),
            Copy::Whole => Inbox::new(16, 68 << 10),
        };
        // Only what comes in is stamped, and only what is timed needs it.
        let timed = shape.delay.is_some() || shape.rate_bits_per_s.is_some();
        let stamps = (timed && plan.queued.contains(&Direction::In)).then(stamping).transpose();
        let stamps = stamps.map_err(|error| Refusal::kernel("the time at which packets come", error))?;
        Ok(Queue { socket, inbox, lines, writer: Writer::default(), _stamps: stamps, arrivals: Arrivals::since(sys::now()) })
    }

    /// Takes in packets that have come; true if there may be more. `pass` lets them go at once.
    fn take_in(&mut self, pass: bool) -> Result<bool, Failure> {
        for _ in 0..ROUNDS {
            let before = sys::now();
            let count = self.inbox.fill(self.socket.fd())?;
            let read = sys::read_now();
            for message in self.inbox.datagrams().flat_map(netlink::messages) {
                match message.answer() {
                    Answer::Message(message) if message.kind == queue::PACKET => {
                        let Some(packet) = queue::packet(message.body) else { continue };
                        let Some((number, line)) = self.lines.iter_mut().find(|(number, _)| *number == packet.queue) else {
                            continue;
                        };
                        if pass {
                            queue::verdict(&mut self.writer, *number, packet.id, queue::Verdict::Accept, None);
                        } else {
                            let came = self.arrivals.came(read, packet.stamp);
                            line.take(came, packet.id, packet.length, packet.bytes);
                        }
                    }
                    Answer::Message(_) | Answer::Done => {}
                    // A verdict on a packet that is no more: somebody removed a hook, and the kernel dropped it.
                    Answer::Failed { errno: libc::ENOENT, .. } => {
                        if let Some((_, line)) = self.lines.first_mut() {
                            line.tally.taken_away += 1;
                        }
                    }
                    Answer::Failed { errno, .. } => return Err(io::Error::from_raw_os_error(errno).into()),
                }
            }
            if !self.writer.is_empty() {
                self.socket.send(&self.writer)?;
                self.writer.clear();
            }
            if count < self.inbox.capacity() {
                self.arrivals.empty_at(before);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Tapped {
    /// Takes in frames that have come; true if there may be more.
    fn take_in(&mut self) -> Result<bool, Failure> {
        for _ in 0..ROUNDS {
            let before = sys::now();
            let count = self.tap.fill()?;
            let read = sys::read_now();
            for (stamp, frame) in self.tap.frames() {
                let length = u32::try_from(frame.len() - tap::IP_OFFSET).unwrap_or(u32::MAX);
                self.line.take(self.arrivals.came(read, stamp), 0, length, frame);
            }
            if count < self.tap.at_once() {
                self.arrivals.empty_at(before);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// As long as it is open, the kernel stamps what comes in, on the whole node.
fn stamping() -> io::Result<OwnedFd> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    Ok(socket)
}

/// Packets that may wait in a queue: as many as come while they are delayed, and never so few that a pause of ours
/// lets packets pass.
fn waiting_max(shape: &Shape) -> u32 {
    let delay_us = shape.delay.map_or(0, |delay| delay.mean_us + delay.jitter_us);
    let backlog_us = shape.rate_bits_per_s.map_or(0, |_| RATE_BACKLOG_NS / 1_000);
    let packets = (delay_us + backlog_us) * PACKETS_PER_S / 1_000_000;
    u32::try_from((WAITING_MIN + packets).min(WAITING_MAX)).unwrap_or(u32::MAX)
}

impl Raw {
    fn open() -> io::Result<Self> {
        let open = |domain| {
            let fd = sys::socket(domain, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
            sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_MARK, MARK as i32)?;
            Ok::<OwnedFd, io::Error>(fd)
        };
        Ok(Raw { four: open(libc::AF_INET)?, six: open(libc::AF_INET6)? })
    }

    fn send(&self, bytes: &[u8]) -> bool {
        let Some(packet) = packet::parse(bytes) else { return false };
        let fd = if packet.to.is_ipv4() { &self.four } else { &self.six };
        sys::send_packet(fd, bytes, packet.to).is_ok()
    }
}
