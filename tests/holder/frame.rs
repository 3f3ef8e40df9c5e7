//! How a hold begins and ends, whatever the fault.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gameday::holder::{Aim, Cpu, DiskFill, End, Event, Exit, Fault, FileOperation, Files, LAST_RESORT, Memory, Pause, Processes};
use rustix::process::Signal;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::ground::{
    AgentsCgroup, Ground, Holder, cleared_within, field, ground, mib, reap, signal_kill, slower, soon, state, until,
};

const LONG: Duration = Duration::from_secs(60);

/// How often each kind is killed.
const TIMES: usize = 20;

fn percent(value: i64) -> Option<gameday::api::Percent> {
    Some(gameday::api::Percent::new(value).unwrap())
}

fn cpu() -> Fault {
    Fault::Cpu(Cpu { percent: percent(20), ..Cpu::default() })
}

fn memory() -> Fault {
    Fault::Memory(Memory { bytes: mib(64), ..Memory::default() })
}

fn disk(ground: &Ground, name: &str) -> Fault {
    Fault::DiskFill(DiskFill { path: ground.path(name), bytes: mib(32), ..DiskFill::default() })
}

fn files(ground: &Ground) -> Fault {
    Fault::Files(Files {
        path: ground.path("volume"),
        operations: vec![FileOperation::Open],
        delay: Some(gameday::api::Duration::from_secs(30)),
        rate: None,
        error: None,
        percent: percent(100).unwrap(),
    })
}

fn disk_io(ground: &Ground) -> Fault {
    serde_json::from_value(serde_json::json!({"diskIo": {"path": ground.path("volume"), "block": 65536, "atOnce": 2}})).unwrap()
}

/// Whether a fault is in force, seen from outside of the holder.
type InForce = Box<dyn Fn(&Ground) -> bool>;

/// Each kind of fault, with what says that it is in force.
fn kinds(ground: &Ground) -> Vec<(&'static str, Fault, InForce)> {
    let (empty, memory_before, pids) = (ground.full_percent("volume"), ground.memory_percent(), ground.pids());
    let tmpfs = ground.full_percent("memory");
    vec![
        ("cpu", cpu(), Box::new(|ground| !ground.workers().is_empty())),
        ("memory", memory(), Box::new(move |ground| ground.memory_percent() > memory_before + 5.0)),
        ("diskFill", disk(ground, "volume"), Box::new(move |ground| ground.full_percent("volume") > empty + 5.0)),
        ("diskFill of memory", disk(ground, "memory"), Box::new(move |ground| ground.full_percent("memory") > tmpfs + 5.0)),
        ("diskIo", disk_io(ground), Box::new(|ground| !ground.workers().is_empty())),
        (
            "processes",
            Fault::Processes(Processes::default()),
            Box::new(move |ground| ground.pids() > pids || !ground.workers().is_empty()),
        ),
        ("pause", Fault::Pause(Pause::default()), Box::new(|ground| state(ground.pid) == Some('t'))),
        ("files", files(ground), Box::new(|ground| !opens_at_once(ground))),
    ]
}

/// Waits until all is as before: freed blocks are counted when the journal says so.
fn same_traces(ground: &Ground, before: &[String], kind: &str) {
    let began = Instant::now();
    while ground.traces() != before {
        let now = ground.traces();
        let other: Vec<_> = now.iter().zip(before).filter(|(now, before)| now != before).collect();
        assert!(began.elapsed() < soon(), "{kind} left something behind: {other:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn opens_at_once(ground: &Ground) -> bool {
    let mut child = ground.inside(&format!("cat {}/file", ground.path("volume"))).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        if began.elapsed() > cleared_within() {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_killed_holder_leaves_nothing() {
    let Some(ground) = ground("killed") else { return };
    let before = ground.traces();
    for (kind, fault, in_force) in kinds(&ground) {
        let mut took = Vec::new();
        for _ in 0..TIMES {
            let mut holder = ground.hold(fault.clone(), LONG);
            holder.started();
            until(&format!("{kind} in force"), soon(), || in_force(&ground));
            // After `Started` the worker has joined, so that it is among these and can be reaped.
            let workers = ground.workers();
            holder.signal(Signal::KILL);
            took.push(until(&format!("{kind} cleared"), cleared_within(), || {
                reap(&workers);
                // Version 2 does not list the dead, who count among the processes until they are reaped.
                let none_left = workers.iter().all(|pid| state(*pid).is_none()) && ground.workers().is_empty();
                !in_force(&ground) && none_left
            }));
        }
        same_traces(&ground, &before, kind);
        took.sort();
        println!("{kind}: cleared within {:?} median, {:?} worst of {TIMES}", took[TIMES / 2], took[TIMES - 1]);
    }
}

#[test]
fn a_released_holder_reverts_and_reads_back() {
    let Some(ground) = ground("released") else { return };
    let before = ground.traces();
    for (kind, fault, in_force) in kinds(&ground) {
        let mut holder = ground.hold(fault, LONG);
        holder.started();
        until(&format!("{kind} in force"), soon(), || in_force(&ground));
        holder.release();
        let began = Instant::now();
        let ended = holder.end();
        assert!(began.elapsed() < cleared_within(), "{kind}: {:?}", began.elapsed());
        assert_eq!(ended.status.code(), Some(Exit::Cleared as i32), "{kind}: {ended:?}");
        match ended.last() {
            Event::Cleared { end: End::Released, clean } => assert!(clean.clean, "{kind}: {clean:?}"),
            other => panic!("{kind}: {other:?}"),
        }
        assert!(!in_force(&ground), "{kind} is still in force");
        same_traces(&ground, &before, kind);
    }
}

#[test]
fn a_signal_ends_it() {
    let Some(ground) = ground("signal") else { return };
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut holder = ground.hold(cpu(), LONG);
        holder.started();
        holder.signal(signal);
        let ended = holder.end();
        assert!(matches!(ended.last(), Event::Cleared { end: End::Signal, .. }), "{ended:?}");
        assert_eq!(ended.status.code(), Some(0));
    }
}

#[test]
fn it_ends_after_its_length() {
    let Some(ground) = ground("length") else { return };
    let mut holder = ground.hold(cpu(), Duration::from_millis(1500));
    let began = Instant::now();
    holder.started();
    let ended = holder.end();
    let took = began.elapsed();
    assert!(matches!(ended.last(), Event::Cleared { end: End::Length, .. }), "{ended:?}");
    assert!(
        took > Duration::from_millis(1300) && took < Duration::from_millis(1500) + Duration::from_millis(500) * slower(),
        "{took:?}"
    );
    assert!(ended.events.iter().any(|event| matches!(event, Event::Bite(bite) if bite.bit)), "{ended:?}");
}

/// The last resort needs no code of ours: it fires while nothing of ours can run.
#[test]
fn a_stopped_holder_is_ended_by_its_kernel_timer() {
    let Some(ground) = ground("stopped") else { return };
    for fault in [cpu(), Fault::Pause(Pause::default()), files(&ground)] {
        let began = Instant::now();
        let mut holder = ground.hold(fault.clone(), Duration::from_secs(1));
        holder.started();
        let workers = ground.workers();
        // The workers too: not even their tether may be needed.
        holder.signal(Signal::STOP);
        for worker in &workers {
            rustix::process::kill_process(rustix::process::Pid::from_raw(*worker).unwrap(), Signal::STOP).unwrap();
        }
        let ended = holder.end();
        let took = began.elapsed();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(9), "{ended:?}");
        let resort = Duration::from_secs(1) + LAST_RESORT;
        assert!(took > resort - Duration::from_millis(100) && took < resort + cleared_within(), "{took:?}");
        until("workers gone", cleared_within(), || {
            reap(&workers);
            ground.workers().is_empty()
        });
        assert_ne!(state(ground.pid), Some('t'), "{fault:?}");
    }
}

/// The machine's clock, put right when this is dropped.
struct SetClock {
    began: (Duration, Instant),
}

impl SetClock {
    fn new() -> Self {
        let now = clock_gettime(ClockId::Realtime);
        SetClock { began: (Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32), Instant::now()) }
    }

    /// To the right time and so many seconds, which may be fewer than none.
    fn to(&self, seconds: i64) {
        let (then, began) = self.began;
        let right = then + began.elapsed();
        let time = Timespec { tv_sec: right.as_secs() as i64 + seconds, tv_nsec: i64::from(right.subsec_nanos()) };
        clock_settime(ClockId::Realtime, time).expect("root may set the clock");
    }
}

impl Drop for SetClock {
    fn drop(&mut self) {
        self.to(0);
    }
}

/// A length is a length, and so is the last resort's.
#[test]
#[ignore = "sets this machine's clock: tests/kernels/run runs it in a machine that is its own"]
fn a_clock_that_is_set_an_hour_on_and_back_ends_nothing_sooner_or_later() {
    const HOUR: i64 = 3_600;
    let Some(ground) = ground("clock") else { return };
    let before = ground.traces();
    let length = Duration::from_secs(3) * slower();
    for (kind, fault, in_force) in kinds(&ground) {
        let clock = SetClock::new();
        let began = Instant::now();
        let mut holder = ground.hold(fault, length);
        holder.started();
        until(&format!("{kind} in force"), soon(), || in_force(&ground));
        clock.to(HOUR);
        std::thread::sleep(length / 10);
        assert!(in_force(&ground), "{kind}, an hour on");
        clock.to(-HOUR);
        let ended = holder.end();
        let took = began.elapsed();
        assert!(matches!(ended.last(), Event::Cleared { end: End::Length, clean } if clean.clean), "{kind}: {ended:?}");
        assert!(took > length - length / 10 && took < length + cleared_within(), "{kind}: {took:?}");
        println!("{kind}: ordered for {length:?}, gone after {took:?}");
        same_traces(&ground, &before, kind);
    }
    for seconds in [HOUR, -HOUR] {
        let clock = SetClock::new();
        let began = Instant::now();
        let mut holder = ground.hold(Fault::Pause(Pause::default()), Duration::from_secs(1));
        holder.started();
        holder.signal(Signal::STOP);
        clock.to(seconds);
        let ended = holder.end();
        let (took, resort) = (began.elapsed(), Duration::from_secs(1) + LAST_RESORT);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(9), "{ended:?}");
        assert!(took > resort - Duration::from_millis(100) && took < resort + cleared_within(), "{took:?}");
    }
}

#[test]
fn a_target_that_dies_ends_it_and_takes_the_workers_along() {
    for stopped in [false, true] {
        let Some(mut ground) = ground("dies") else { return };
        let mut holder = ground.hold(memory(), LONG);
        holder.started();
        until("a worker", soon(), || !ground.workers().is_empty());
        let workers = ground.workers();
        if stopped {
            holder.signal(Signal::STOP);
        }
        ground.kill();
        // While the holder is stopped nobody reaps its worker, but a zombie holds no memory and no cgroup.
        until("the worker gone", cleared_within(), || ground.processes().is_empty());
        if stopped {
            holder.signal(Signal::KILL);
            reap(&workers);
        } else {
            let ended = holder.end();
            assert_eq!(ended.status.code(), Some(Exit::Lost as i32), "{ended:?}");
            assert!(matches!(ended.last(), Event::Lost { clean, .. } if clean.clean), "{ended:?}");
        }
    }
}

#[test]
fn a_parent_that_dies_takes_holder_and_workers_along() {
    let Some(ground) = ground("parent") else { return };
    for _ in 0..TIMES {
        let mut parent = Command::new("sh")
            .args(["-c", "\"$@\" > /dev/null & wait", "sh", env!("CARGO_BIN_EXE_gameday"), "hold", "cpu", "--percent", "20"])
            .args(["--for", "60s", "--container", &ground.id])
            .spawn()
            .unwrap();
        until("a worker", soon(), || !ground.workers().is_empty());
        let workers = ground.workers();
        let holder: i32 = field(workers[0], "PPid:").unwrap().parse().unwrap();
        parent.kill().unwrap();
        parent.wait().unwrap();
        until("all gone", cleared_within(), || {
            reap(&workers);
            reap(&[holder]);
            ground.workers().is_empty() && state(holder).is_none()
        });
    }
}

#[test]
fn a_worker_that_is_killed_is_a_fault_that_is_lost() {
    let Some(ground) = ground("worker") else { return };
    let mut holder = ground.hold(cpu(), LONG);
    holder.started();
    signal_kill(ground.workers()[0]);
    let ended = holder.end();
    assert_eq!(ended.status.code(), Some(Exit::Lost as i32), "{ended:?}");
    assert!(matches!(ended.last(), Event::Lost { why, .. } if why.contains("killed by signal 9")), "{ended:?}");
}

#[test]
fn what_is_not_needed_any_more_is_dropped() {
    let Some(ground) = ground("privileges") else { return };
    const SYS_PTRACE: u64 = 1 << 19;
    for (fault, keeps) in
        [(cpu(), 0), (disk(&ground, "volume"), 0), (files(&ground), 0), (Fault::Pause(Pause::default()), SYS_PTRACE)]
    {
        let mut holder = ground.hold(fault.clone(), LONG);
        holder.started();
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            let has = u64::from_str_radix(&field(holder.pid, set).unwrap(), 16).unwrap();
            let keeps = if matches!(set, "CapPrm:" | "CapEff:") { keeps } else { 0 };
            assert_eq!(has, keeps, "{fault:?}: {set}");
        }
        assert_eq!(field(holder.pid, "NoNewPrivs:").as_deref(), Some("1"));
        assert_eq!(field(holder.pid, "Threads:").as_deref(), Some("1"));
    }
}

/// As containers are since version 2: the target's cgroup is named from the agent's own, and found in the node's tree.
#[test]
#[ignore = "needs cgroup version 2: tests/kernels/run runs it"]
fn a_holder_in_a_cgroup_namespace_of_its_own_finds_the_targets_cgroup() {
    let Some(ground) = ground("namespace") else { return };
    let before = ground.traces();
    let agent = AgentsCgroup::beside(&ground);
    for (kind, fault, in_force) in kinds(&ground).into_iter().filter(|(kind, ..)| !matches!(*kind, "pause" | "files")) {
        let mut holder = Holder::start_by(&mut agent.hold(), &ground.order(fault, LONG));
        holder.started();
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/cgroup")).unwrap();
        assert_ne!(namespace(&holder.pid.to_string()), namespace("self"), "{kind}");
        until(&format!("{kind} in force"), soon(), || in_force(&ground));
        holder.release();
        let ended = holder.end();
        assert!(matches!(ended.last(), Event::Cleared { clean, .. } if clean.clean), "{kind}: {ended:?}");
        same_traces(&ground, &before, kind);
    }
}

#[test]
fn an_order_that_cannot_be_is_refused_with_the_reason() {
    let Some(ground) = ground("refused") else { return };
    let before = ground.traces();
    let refuse = |fault: Fault, words: &str| {
        let ended = ground.hold(fault.clone(), LONG).end();
        assert!(ended.refusal().contains(words), "{fault:?}: {}", ended.refusal());
        assert_eq!(ended.events.len(), 1, "{ended:?}");
    };
    refuse(Fault::Cpu(Cpu::default()), "give percent or cores");
    refuse(Fault::Cpu(Cpu { cores: Some(10_000.0), ..Cpu::default() }), "this node has");
    refuse(Fault::Memory(Memory { percent: percent(99), ..Memory::default() }), "an OOM kill is likely");
    refuse(Fault::DiskFill(DiskFill { path: "volume".into(), percent: percent(90), ..DiskFill::default() }), "must begin with /");
    refuse(Fault::DiskFill(DiskFill { path: "/nowhere".into(), percent: percent(90), ..DiskFill::default() }), "No such file");
    refuse(
        Fault::DiskFill(DiskFill { path: "/".into(), percent: percent(99), ..DiskFill::default() }),
        "the node's own file system",
    );
    refuse(Fault::Processes(Processes { leave: Some(100_000), ..Processes::default() }), "in use already");
    ground.write("pids", "pids.max", "max");
    refuse(Fault::Processes(Processes::default()), "the node would run out");
    ground.write("pids", "pids.max", &super::ground::PIDS_LIMIT.to_string());
    assert_eq!(ground.traces(), before);

    let mut order = ground.order(cpu(), LONG);
    order.parent = Some(1);
    assert!(Holder::start(&order).end().refusal().contains("the parent was to be process 1"));
    let mut order = ground.order(cpu(), LONG);
    order.target = Aim::Container("f".repeat(64));
    assert!(Holder::start(&order).end().refusal().contains("no process of container"));
    order.target = Aim::Pid(1);
    assert!(Holder::start(&order).end().refusal().contains("everything else here depends on"));
    assert!(ground.hold(cpu(), Duration::ZERO).end().refusal().contains("more than nothing"));
}

#[test]
fn what_is_no_order_is_not_understood() {
    let mut holder = Command::new(env!("CARGO_BIN_EXE_gameday")).arg("hold").stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut holder.stdin.take().unwrap(), b"{\"fault\":{}}\n").unwrap();
    assert_eq!(holder.wait().unwrap().code(), Some(Exit::NotUnderstood as i32));
    let nothing = Command::new(env!("CARGO_BIN_EXE_gameday")).arg("hold").stdin(Stdio::null()).status().unwrap();
    assert_eq!(nothing.code(), Some(Exit::NotUnderstood as i32));
}

/// An agent that is stuck reads nothing: the pipe is full, and the fault ends all the same.
#[test]
fn a_reader_that_does_not_read_does_not_keep_it() {
    let Some(ground) = ground("unread") else { return };
    let order = serde_json::to_string(&ground.order(cpu(), Duration::from_millis(2500))).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while std::io::Write::write(&mut writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut holder =
        Command::new(env!("CARGO_BIN_EXE_gameday")).arg("hold").stdin(Stdio::piped()).stdout(writer).spawn().unwrap();
    let mut stdin = holder.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, format!("{order}\n").as_bytes()).unwrap();
    let began = Instant::now();
    assert_eq!(holder.wait().unwrap().code(), Some(0));
    assert!(began.elapsed() < Duration::from_millis(2500) + LAST_RESORT, "{:?}", began.elapsed());
    drop((reader, stdin));
}
