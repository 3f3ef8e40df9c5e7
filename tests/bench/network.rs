//! How exact the network engine is, and what it costs, beside the plain cable in the same run.
//!
//!     cargo bench --bench network [part ...]      as root
//!
//! Parts: delay, egress, spared, most, tcp, accuracy, end. All of them take about six minutes. Where TOXIPROXY names its server,
//! tcp measures that too.

#[path = "../holder/wire.rs"]
#[allow(dead_code, reason = "tests and benchmark share it, and each uses a part")]
mod wire;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gameday::api::{Direction, Distribution};
use gameday::holder::network::{Aim, Bite, Delay, Effect, Loss, NetworkOrder, Peers, Shape, left_over, open};
use serde::de::DeserializeOwned;

use wire::{End, Load, Outcome, TARGET, Wire, mean_and_deviation, quantile, send};

fn main() {
    if holds_in_a_process() {
        return;
    }
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    let Some(wire) = Wire::lay() else { return };
    println!("load average: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim_end());
    if wants("delay") {
        delay(&wire, Direction::In);
    }
    if wants("egress") {
        delay(&wire, Direction::Out);
    }
    if wants("spared") {
        spared(&wire);
    }
    if wants("most") {
        most(&wire);
    }
    if wants("tcp") {
        tcp(&wire);
    }
    if wants("accuracy") {
        accuracy(&wire);
    }
    if wants("end") {
        end(&wire);
    }
    println!("load average: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim_end());
}

fn shape(direction: Direction, shape: Shape) -> NetworkOrder {
    NetworkOrder {
        seed: 7,
        direction,
        effect: Effect::Shape(shape),
        flows_percent: None,
        aim: Aim { to: vec![Peers::everyone()], except: Vec::new() },
        queue_by: None,
    }
}

fn delay_of(mean_us: u64) -> Shape {
    Shape { delay: Some(Delay { mean_us, ..Delay::default() }), ..Shape::default() }
}

/// A holder in a process of its own, as users have it: it shares no memory with what sends and receives here.
struct Held {
    child: Child,
    says: BufReader<ChildStdout>,
    real_time: bool,
    opened: Duration,
}

/// For this program as a holder: its order, and its network namespace.
const ORDER: &str = "GAMEDAY_BENCH_HOLD";
const NETNS: &str = "GAMEDAY_BENCH_NETNS";

impl Held {
    fn hold(wire: &Wire, order: &NetworkOrder) -> Held {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ORDER, serde_json::to_string(order).unwrap())
            .env(NETNS, wire.name(End::Target))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = BufReader::new(child.stdout.take().unwrap());
        let (real_time, opened) = heard(&mut says);
        Held { child, says, real_time, opened }
    }

    /// What it did, and its processor time in seconds.
    fn stop(mut self) -> (Bite, f64) {
        drop(self.child.stdin.take());
        let last = heard(&mut self.says);
        assert!(self.child.wait().unwrap().success());
        last
    }
}

fn heard<T: DeserializeOwned>(says: &mut impl BufRead) -> T {
    let mut line = String::new();
    says.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("the holder said {line:?}: {error}"))
}

fn holds_in_a_process() -> bool {
    let Ok(order) = std::env::var(ORDER) else { return false };
    wire::enter(&std::env::var(NETNS).unwrap());
    let order: NetworkOrder = serde_json::from_str(&order).unwrap();
    let began = Instant::now();
    let mut engine = open(&order).unwrap();
    println!("{}", serde_json::to_string(&(engine.is_real_time(), began.elapsed())).unwrap());
    let before = cpu();
    let bite = engine.run(drop, std::io::stdin().as_fd(), None).unwrap();
    println!("{}", serde_json::to_string(&(bite, cpu() - before)).unwrap());
    true
}

fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What other machines on the same iron took of this one's processors, in milliseconds, as far as it was told: the eighth
/// number of `/proc/stat`, in hundredths of a second.
fn stolen_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    stat.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse().ok()).map_or(0, |ticks: u64| ticks * 10)
}

/// How late the machine itself is: a thread on each processor, ahead of everything that is measured, that does nothing but
/// sleep for a millisecond at a time. A pause of the machine that takes ten of its turns counts ten times, as it does for
/// packets.
struct Timers {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<f64>>>,
}

impl Timers {
    fn start() -> Timers {
        let done = Arc::new(AtomicBool::new(false));
        let ours = rustix::thread::sched_getaffinity(None).unwrap();
        let processors = (0..rustix::thread::CpuSet::MAX_CPU).filter(|processor| ours.is_set(*processor));
        let threads = processors.map(|processor| {
            let done = done.clone();
            std::thread::spawn(move || late_by_us(processor, &done))
        });
        Timers { threads: threads.collect(), done }
    }

    /// The late percent begins here, in us.
    fn p99(self) -> f64 {
        self.done.store(true, Ordering::Relaxed);
        let mut late: Vec<f64> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        late.sort_by(f64::total_cmp);
        quantile(&late, 0.99)
    }
}

fn late_by_us(processor: usize, done: &AtomicBool) -> Vec<f64> {
    const EACH_NS: u64 = 1_000_000;
    let mut only = rustix::thread::CpuSet::new();
    only.set(processor);
    rustix::thread::sched_setaffinity(None, &only).unwrap();
    wire::real_time_scheduling(2);
    let mut late = Vec::new();
    let mut due = monotonic();
    while !done.load(Ordering::Relaxed) {
        due += EACH_NS;
        std::thread::sleep(Duration::from_nanos(due.saturating_sub(monotonic())));
        late.push((monotonic() - due) as f64 / 1e3);
    }
    late
}

fn monotonic() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn load(direction: Direction, per_second: f64, seconds: f64) -> Load {
    let count = (per_second * seconds) as u64;
    match direction {
        Direction::In | Direction::Both => Load::into_target(per_second, count),
        Direction::Out => Load::out_of_target(per_second, count),
    }
}

fn errors_us(outcome: &Outcome, delay_us: f64) -> [f64; 3] {
    let mut errors: Vec<f64> = outcome.arrivals.iter().map(|arrival| arrival.delay_us() - delay_us).collect();
    errors.sort_by(f64::total_cmp);
    [0.5, 0.99, 0.999].map(|part| quantile(&errors, part))
}

fn delay(wire: &Wire, direction: Direction) {
    println!(
        "\nError of the delay of what {} in us, UDP of 64 bytes",
        if direction == Direction::In { "comes in" } else { "goes out" }
    );
    println!(
        "    delay  packets/s      p50      p99    p99.9   lost  holder's own p99  CPU us/packet  real-time  got/s  stolen ms  timer's p99"
    );
    for per_second in [100.0, 1_000.0, 10_000.0, 50_000.0, 100_000.0] {
        let (timers, before) = (Timers::start(), stolen_ms());
        let plain = send(wire, load(direction, per_second, 2.0)).join().unwrap();
        let (stolen, timer) = (stolen_ms() - before, timers.p99());
        let [p50, p99, p999] = errors_us(&plain, 0.0);
        let got = plain.sent as f64 / plain.seconds;
        println!(
            "   (none) {per_second:>10} {p50:>8.1} {p99:>8.1} {p999:>8.1} {:>6} {:>17} {:>14} {:>10} {got:>6.0} {stolen:>10} {timer:>12.1}",
            plain.lost(),
            "-",
            "-",
            "-"
        );
        for delay_ms in [1, 10, 100] {
            let held = Held::hold(wire, &shape(direction, delay_of(delay_ms * 1_000)));
            let real_time = held.real_time;
            let (timers, before) = (Timers::start(), stolen_ms());
            let outcome = send(wire, load(direction, per_second, 2.0)).join().unwrap();
            let (stolen, timer) = (stolen_ms() - before, timers.p99());
            let (bite, cpu) = held.stop();
            let [p50, p99, p999] = errors_us(&outcome, delay_ms as f64 * 1_000.0);
            let own = bite.late_us.map_or(f64::NAN, |late| late.p99);
            let each = cpu * 1e6 / bite.taken.max(1) as f64;
            let got = outcome.sent as f64 / outcome.seconds;
            println!(
                "{delay_ms:>6} ms {per_second:>10} {p50:>8.1} {p99:>8.1} {p999:>8.1} {:>6} {own:>17.1} {each:>14.1} {real_time:>10} {got:>6.0} {stolen:>10} {timer:>12.1}",
                outcome.lost()
            );
        }
    }
}

/// What packets take that the fault is not about, of the same target at the same time.
fn spared(wire: &Wire) {
    println!("\nUs on the cable, 1,000 packets/s of 64 bytes with a peer that is not named, in turns");
    println!("direction           fault      p50      p99    p99.9   lost");
    let only_others =
        Aim { to: vec![Peers { addresses: Some(vec!["10.77.0.3/32".parse().unwrap()]), ..Peers::default() }], except: vec![] };
    for direction in [Direction::In, Direction::Out] {
        let line = |fault: &str| {
            let outcome = send(wire, load(direction, 1_000.0, 2.0)).join().unwrap();
            let [p50, p99, p999] = errors_us(&outcome, 0.0);
            println!("{:<9} {fault:>15} {p50:>8.1} {p99:>8.1} {p999:>8.1} {:>6}", format!("{direction:?}"), outcome.lost());
        };
        for _ in 0..3 {
            line("none");
            for (name, effect) in [("delay of 10 ms", Effect::Shape(delay_of(10_000))), ("partition", Effect::Partition)] {
                let held =
                    Held::hold(wire, &NetworkOrder { effect, aim: only_others.clone(), ..shape(direction, Shape::default()) });
                line(name);
                held.stop();
            }
        }
    }
}

/// How many packets a second pass a delay of 10 ms, and how many the cable alone takes from the same sender.
fn most(wire: &Wire) {
    println!("\nPackets/s of 64 bytes without loss");
    println!("direction       delay    offered       sent   lost");
    for direction in [Direction::In, Direction::Out] {
        for delayed in [false, true] {
            for per_second in [150_000.0, 200_000.0, 250_000.0, 300_000.0, 400_000.0] {
                let held = delayed.then(|| Held::hold(wire, &shape(direction, delay_of(10_000))));
                let outcome = send(wire, load(direction, per_second, 2.0)).join().unwrap();
                let _ = held.map(Held::stop);
                let (sent, lost) = (outcome.sent as f64 / outcome.seconds, outcome.lost());
                let delay = if delayed { "10 ms" } else { "none" };
                println!("{:<9} {delay:>11} {per_second:>10} {sent:>10.0} {lost:>6}", format!("{direction:?}"));
                if lost > 0 {
                    break;
                }
            }
        }
    }
}

/// Megabits a second from one end to the other, for some seconds.
fn throughput(wire: &Wire, into_target: bool) -> f64 {
    let (sender, receiver, address) =
        if into_target { (End::Peer, End::Target, TARGET) } else { (End::Target, End::Peer, wire::PEER) };
    let (address, server) = sink(wire, receiver, address);
    pour(wire, sender, address);
    server.join().unwrap()
}

/// Takes in one connection; says in the end how many megabits a second came.
fn sink(wire: &Wire, end: End, address: &'static str) -> (SocketAddr, JoinHandle<f64>) {
    let (bound, port) = mpsc::channel();
    let server = wire.at(end, move || {
        let listener = TcpListener::bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        bound.send(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 256 << 10];
        let (mut bytes, began) = (0, Instant::now());
        // The first second is the window's opening.
        let (mut counted_from, mut counted) = (None, 0);
        loop {
            let length = stream.read(&mut buffer).unwrap();
            if length == 0 {
                break;
            }
            bytes += length;
            if began.elapsed() >= Duration::from_secs(1) && counted_from.is_none() {
                counted_from = Some(Instant::now());
                counted = bytes;
            }
        }
        let seconds = counted_from.unwrap().elapsed().as_secs_f64();
        (bytes - counted) as f64 * 8.0 / seconds / 1e6
    });
    (port.recv().unwrap(), server)
}

fn pour(wire: &Wire, end: End, address: SocketAddr) {
    let client = wire.at(end, move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let bytes = vec![0x5a; 256 << 10];
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            stream.write_all(&bytes).unwrap();
        }
    });
    client.join().unwrap();
}

/// A peer: a proxy beside the target, which ends each connection and begins another. Killed when it is dropped.
struct Toxiproxy {
    child: Child,
}

/// Where it listens: for orders, and for connections.
const TOXIPROXY_API: u16 = 8474;
const TOXIPROXY: u16 = 8475;

impl Toxiproxy {
    fn start(wire: &Wire, program: String) -> Self {
        let api = TOXIPROXY_API.to_string();
        let start = move || {
            Command::new(program).args(["-host", TARGET, "-port", &api]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        let child = wire.at(End::Target, start).join().unwrap().expect("toxiproxy starts");
        Toxiproxy { child }
    }

    fn post(&self, wire: &Wire, path: &str, body: &str) {
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let ask = move || {
            let began = Instant::now();
            let mut stream = loop {
                match TcpStream::connect((TARGET, TOXIPROXY_API)) {
                    Ok(stream) => break stream,
                    Err(error) => assert!(began.elapsed() < Duration::from_secs(5), "toxiproxy: {error}"),
                }
            };
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        };
        wire.at(End::Target, ask).join().unwrap();
    }

    /// Into the target, through it, with this latency.
    fn throughput(wire: &Wire, program: &str, delay_ms: u64) -> f64 {
        let proxy = Toxiproxy::start(wire, program.to_owned());
        let (upstream, server) = sink(wire, End::Target, TARGET);
        proxy.post(wire, "/proxies", &format!(r#"{{"name": "p", "listen": "{TARGET}:{TOXIPROXY}", "upstream": "{upstream}"}}"#));
        let toxic = format!(r#"{{"type": "latency", "stream": "upstream", "attributes": {{"latency": {delay_ms}}}}}"#);
        proxy.post(wire, "/proxies/p/toxics", &toxic);
        pour(wire, End::Peer, SocketAddr::new(TARGET.parse().unwrap(), TOXIPROXY));
        server.join().unwrap()
    }
}

impl Drop for Toxiproxy {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("toxiproxy was not killed: {error}");
        }
    }
}

fn tcp(wire: &Wire) {
    println!("\nTCP throughput of one connection, Mbit/s");
    println!("plain cable: into the target {:.0}, out of it {:.0}", throughput(wire, true), throughput(wire, false));
    for direction in [Direction::In, Direction::Out] {
        for delay_ms in [1, 10, 100] {
            let held = Held::hold(wire, &shape(direction, delay_of(delay_ms * 1_000)));
            let [into, out] = [true, false].map(|into| throughput(wire, into));
            held.stop();
            println!("delay {delay_ms:>3} ms {direction:?}: into the target {into:.0}, out of it {out:.0}");
        }
    }
    match std::env::var("TOXIPROXY") {
        Ok(program) => {
            for delay_ms in [0, 1, 10, 100] {
                let into = Toxiproxy::throughput(wire, &program, delay_ms);
                println!("toxiproxy, delay {delay_ms:>3} ms: into the target {into:.0}");
            }
        }
        Err(_) => println!("TOXIPROXY names no toxiproxy-server: it was not measured"),
    }
    for direction in [Direction::In, Direction::Out] {
        let held = Held::hold(wire, &shape(direction, Shape { rate_bits_per_s: Some(1_000_000_000_000), ..Shape::default() }));
        let [into, out] = [true, false].map(|into| throughput(wire, into));
        held.stop();
        println!("packet by packet, nothing done, {direction:?}: into the target {into:.0}, out of it {out:.0}");
    }
    println!("plain cable: into the target {:.0}, out of it {:.0}", throughput(wire, true), throughput(wire, false));
}

fn accuracy(wire: &Wire) {
    println!("\nAccuracy");
    for direction in [Direction::In, Direction::Out] {
        for burst in [1.0, 5.0] {
            let held =
                Held::hold(wire, &shape(direction, Shape { loss: Some(Loss { percent: 5.0, burst }), ..Shape::default() }));
            let outcome = send(wire, load(direction, 10_000.0, 2.0)).join().unwrap();
            held.stop();
            let share = outcome.lost() as f64 * 100.0 / outcome.sent as f64;
            println!("loss 5 % in bursts of {burst}, {direction:?}: {share:.2} % of {}", outcome.sent);
        }
        for megabits in [1, 10, 100] {
            let rate = megabits * 1_000_000;
            let held = Held::hold(wire, &shape(direction, Shape { rate_bits_per_s: Some(rate), ..Shape::default() }));
            let per_second = rate as f64 * 1.5 / 8.0 / 1_200.0;
            let outcome = send(wire, Load { size: 1_172, ..load(direction, per_second, 3.0) }).join().unwrap();
            held.stop();
            let seconds = (outcome.arrivals.last().unwrap().came - outcome.arrivals[0].came) as f64 / 1e9;
            let got = (outcome.arrivals.len() - 1) as f64 * 1_200.0 * 8.0 / seconds / 1e6;
            println!("rate {megabits} Mbit/s, offered half as much again, {direction:?}: {got:.3} Mbit/s");
        }
    }
    for distribution in [Distribution::Uniform, Distribution::Normal, Distribution::Pareto] {
        let asked = if distribution == Distribution::Uniform { 4.0 / 3f64.sqrt() } else { 4.0 };
        let delay = Some(Delay { mean_us: 16_000, jitter_us: 4_000, distribution, correlation: 0.0 });
        let held = Held::hold(wire, &shape(Direction::In, Shape { delay, ..Shape::default() }));
        let outcome = send(wire, load(Direction::In, 2_000.0, 20.0)).join().unwrap();
        held.stop();
        let delays: Vec<f64> = outcome.arrivals.iter().map(|arrival| arrival.delay_us() / 1_000.0).collect();
        let (mean, deviation) = mean_and_deviation(&delays);
        println!(
            "jitter 16 ms +- 4 ms {distribution:?}, order kept: mean {mean:.2} ms, deviation {deviation:.2} ms of {asked:.2}, {} overtaken",
            outcome.overtaken()
        );
    }
}

fn end(wire: &Wire) {
    println!("\nThe end, 10,000 packets/s delayed by 20 ms");
    for direction in [Direction::In, Direction::Out] {
        let (mut after_ms, mut lost) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            let mut held = Held::hold(wire, &shape(direction, delay_of(20_000)));
            let running = send(wire, load(direction, 10_000.0, 0.5));
            std::thread::sleep(Duration::from_millis(250));
            let rss = std::fs::read_to_string(format!("/proc/{}/status", held.child.id())).unwrap();
            let killed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
            held.child.kill().unwrap();
            held.child.wait().unwrap();
            let outcome = running.join().unwrap();
            let unharmed =
                outcome.arrivals.iter().find(|arrival| arrival.sent >= killed && arrival.delay_us() < 5_000.0).unwrap();
            after_ms.push((unharmed.sent - killed) as f64 / 1e6);
            lost.push(outcome.lost() as f64);
            assert!(wire.at(End::Target, || left_over().unwrap()).join().unwrap().is_empty());
            if after_ms.len() == 1 {
                let rss = rss.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("").to_owned();
                println!("{direction:?}: holder's {rss}");
            }
        }
        after_ms.sort_by(f64::total_cmp);
        lost.sort_by(f64::total_cmp);
        println!(
            "{direction:?}: kill -9: first unharmed packet after {:.2} ms (median of 10, worst {:.2}); {} lost (median; 200 wait)",
            after_ms[5], after_ms[9], lost[5]
        );
        let (mut lost, mut opened) = (0, Vec::new());
        for _ in 0..10 {
            let held = Held::hold(wire, &shape(direction, delay_of(20_000)));
            opened.push(held.opened.as_secs_f64() * 1_000.0);
            let running = send(wire, load(direction, 10_000.0, 0.5));
            std::thread::sleep(Duration::from_millis(250));
            held.stop();
            lost += running.join().unwrap().lost();
        }
        opened.sort_by(f64::total_cmp);
        println!("{direction:?}: clean stop: {lost} lost in 10; put in force in {:.1} ms (median)", opened[5]);
    }
}
