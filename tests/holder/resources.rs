//! What each fault does to its target, measured at the target.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gameday::api::Percent;
use gameday::holder::{
    Bytes, ContainerKill, Cpu, CpuMode, DiskFill, DiskIo, DiskOperation, Event, Fault, FileError, FileOperation, Files,
    KillSignal, Memory, Pause, Processes,
};

use super::ground::{
    CPU_LIMIT_CORES, Ground, MEMORY_LIMIT, MIB, PIDS_LIMIT, cleared_within, ground, is_v2, mib, slower, soon, state, until,
};

const LONG: Duration = Duration::from_secs(60);

fn percent(value: i64) -> Percent {
    Percent::new(value).unwrap()
}

/// Percent of the container's CPU limit that it used over this time.
fn cpu_percent(ground: &Ground, time: Duration) -> f64 {
    let (began, before) = (Instant::now(), ground.cpu_seconds());
    std::thread::sleep(time);
    (ground.cpu_seconds() - before) / began.elapsed().as_secs_f64() / CPU_LIMIT_CORES * 100.0
}

#[test]
fn cpu_burns_what_is_asked_within_three_percent() {
    let Some(ground) = ground("cpu") else { return };
    for goal in [25, 50, 80] {
        let mut holder = ground.hold(Fault::Cpu(Cpu { percent: Some(percent(goal)), ..Cpu::default() }), LONG);
        holder.started();
        let used = cpu_percent(&ground, Duration::from_secs(3));
        println!("cpu: {used:.2} % of the limit at {goal} %");
        assert!((used - goal as f64).abs() <= 3.0, "{used} % at {goal} %");
        let burnt = holder.bitten().figures["burnt_cores"] / CPU_LIMIT_CORES * 100.0;
        assert!((burnt - goal as f64).abs() <= 3.0, "the holder says {burnt} % at {goal} %");
    }
}

#[test]
fn cpu_fills_up_and_leaves_a_busy_target_alone() {
    let Some(ground) = ground("fillup") else { return };
    let fill = Fault::Cpu(Cpu { percent: Some(percent(60)), mode: CpuMode::FillUpTo, ..Cpu::default() });
    let mut holder = ground.hold(fill, LONG);
    holder.started();
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_percent(&ground, Duration::from_secs(3));
    assert!((used - 60.0).abs() <= 3.0, "{used} % of an idle target");
    let mut busy = ground.inside("while :; do :; done").spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let worker = ground.workers().into_iter().find(|pid| *pid != i32::try_from(busy.id()).unwrap()).unwrap();
    let before = cpu_ticks(worker);
    std::thread::sleep(Duration::from_secs(2));
    let burnt = (cpu_ticks(worker) - before) as f64 / 100.0 / 2.0 / CPU_LIMIT_CORES * 100.0;
    busy.kill().unwrap();
    busy.wait().unwrap();
    println!("cpu fillUpTo 60: {used:.2} % with an idle target; beside a busy one the worker burns {burnt:.2} %");
    // What it takes to look a hundred times a second. A worker that did not give way would burn half of what both use.
    let most = if slower() == 1 { 5.0 } else { 15.0 };
    assert!(burnt < most, "{burnt} % beside a busy target");
}

/// User and system time in hundredths of a second.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> =
        stat[stat.rfind(')').unwrap() + 2..].split(' ').skip(11).take(2).map(|field| field.parse().unwrap()).collect();
    fields.iter().sum()
}

#[test]
fn a_limit_of_the_pod_counts_and_none_is_refused() {
    let Some(ground) = ground("podlimit") else { return };
    let (name, none) = if is_v2() { ("cpu.max", "max 100000") } else { ("cpu.cfs_quota_us", "-1") };
    ground.write("cpu", name, none);
    let half = Fault::Cpu(Cpu { percent: Some(percent(50)), ..Cpu::default() });
    let refused = ground.hold(half.clone(), LONG).end();
    assert!(refused.refusal().contains("give cores"), "{}", refused.refusal());
    ground.write_pod("cpu", name, if is_v2() { "40000 100000" } else { "40000" });
    let says = ground.hold(half, LONG).started();
    assert!(says.contains("0.200 cores") && says.contains("0.4 cores"), "{says}");
}

#[test]
fn memory_is_filled_within_two_percent_and_gives_way() {
    let Some(ground) = ground("memory") else { return };
    let fill = |ramp| Fault::Memory(Memory { percent: Some(percent(80)), ramp, ..Memory::default() });
    let mut holder = ground.hold(fill(gameday::api::Duration::ZERO), LONG);
    holder.started();
    let took = until("80 %", soon(), || (ground.memory_percent() - 80.0).abs() <= 2.0);
    holder.bitten();
    let filled = ground.memory_percent();
    assert!((filled - 80.0).abs() <= 2.0, "{filled} %");
    // The target grows by 30 MB at once, and shrinks again.
    let mut grown = ground.inside("exec dd if=/dev/zero of=/dev/null bs=30M count=1000000 2> /dev/null").spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let beside = ground.memory_percent();
    assert!((beside - 80.0).abs() <= 2.0, "{beside} % beside a target that grew");
    let held = holder.bitten_now().figures["held_bytes"];
    grown.kill().unwrap();
    grown.wait().unwrap();
    until("80 % again", soon(), || (ground.memory_percent() - 80.0).abs() <= 2.0);
    println!("memory: {filled:.2} % of 256 MiB in {took:?}; {beside:.2} % with a target of 30 MB more, {held} bytes held then");
    assert!(held < (MEMORY_LIMIT * 4 / 5 - 25 * MIB) as f64, "{held} bytes held beside a target that grew");
    assert_eq!(ground.oom_kills(), 0);
    drop(holder);
    until("empty again", soon(), || ground.memory_percent() < 5.0);

    let mut holder = ground.hold(fill(gameday::api::Duration::from_secs(3)), LONG);
    holder.started();
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(1500));
    let (on_the_way, due) = (ground.memory_percent(), 80.0 * began.elapsed().as_secs_f64() / 3.0);
    assert!((on_the_way - due).abs() <= 5.0, "{on_the_way} % on the ramp where {due} % are due");
}

#[test]
fn a_disk_is_filled_to_ninety_percent() {
    let Some(ground) = ground("disk") else { return };
    for name in ["volume", "memory"] {
        let fill = DiskFill { path: ground.path(name), percent: Some(percent(90)), ..DiskFill::default() };
        let mut holder = ground.hold(Fault::DiskFill(fill), LONG);
        let says = holder.started();
        let full = ground.full_percent(name);
        println!("diskFill of {name}: {full:.2} % full; {says}");
        assert!((full - 90.0).abs() <= 1.0, "{name}: {full} %");
        holder.bitten();
        let memory = ground.memory_percent();
        if name == "memory" {
            // 90 of 100 MB, and charged to the container.
            assert!((30.0..=45.0).contains(&memory), "{memory} % of the container's memory");
        }
    }
    let too_much = DiskFill { path: ground.path("memory"), bytes: mib(95), ..DiskFill::default() };
    let name = if is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
    ground.write("memory", name, &(64 * MIB).to_string());
    let refused = ground.hold(Fault::DiskFill(too_much), LONG).end();
    assert!(refused.refusal().contains("an OOM kill is likely"), "{}", refused.refusal());
}

/// A process that fills this many megabytes, again and again.
fn grown(mut command: Command) -> Child {
    command.stderr(Stdio::null()).spawn().unwrap()
}

fn megabytes(count: u32) -> String {
    format!("exec dd if=/dev/zero of=/dev/null bs={count}M count=1000000")
}

#[test]
fn memory_gives_way_to_others_of_its_pod() {
    let Some(ground) = ground("memory-pod") else { return };
    let name = if is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
    ground.write_pod("memory", name, &MEMORY_LIMIT.to_string());
    let fill = |part| Fault::Memory(Memory { percent: Some(percent(part)), ..Memory::default() });
    let mut beside = grown(ground.beside(&megabytes(95)));
    until("the other has grown", soon(), || resident(&beside) > 90 * MIB);
    let refused = ground.hold(fill(80), LONG).end();
    assert!(refused.refusal().contains("limits of the container and its pod"), "{}", refused.refusal());
    beside.kill().unwrap();
    beside.wait().unwrap();

    let mut holder = ground.hold(fill(60), LONG);
    holder.started();
    until("60 %", soon(), || (ground.memory_percent() - 60.0).abs() <= 2.0);
    let mut beside = grown(ground.beside(&megabytes(95)));
    until("it has given way", soon(), || resident(&beside) > 90 * MIB && ground.memory_percent() < 59.0);
    assert_eq!((ground.oom_kills(), beside.try_wait().unwrap()), (0, None));
    println!("memory: {:.2} % of 256 MiB beside another container with 95 MB", ground.memory_percent());
    beside.kill().unwrap();
    beside.wait().unwrap();
    until("60 % again", soon(), || (ground.memory_percent() - 60.0).abs() <= 2.0);
}

#[test]
fn cached_files_leave_room_for_memory() {
    let Some(ground) = ground("memory-cache") else { return };
    let write = format!("dd if=/dev/zero of={}/large bs=1M count=100; sync", ground.path("volume"));
    assert!(ground.inside(&write).output().unwrap().status.success());
    let name = if is_v2() { "memory.current" } else { "memory.usage_in_bytes" };
    assert!(ground.number("memory", name) > 80 * MIB && ground.memory_percent() < 20.0);
    let fill = Memory { percent: Some(percent(80)), ..Memory::default() };
    let mut holder = ground.hold(Fault::Memory(fill), LONG);
    holder.started();
    until("80 %", soon(), || (ground.memory_percent() - 80.0).abs() <= 2.0);
    assert_eq!(ground.oom_kills(), 0);
}

#[test]
fn a_filled_tmpfs_gives_way() {
    let Some(ground) = ground("disk-memory") else { return };
    let name = if is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
    ground.write("memory", name, &(128 * MIB).to_string());
    let fill = DiskFill { path: ground.path("memory"), bytes: mib(85), ..DiskFill::default() };
    let mut holder = ground.hold(Fault::DiskFill(fill), LONG);
    holder.started();
    holder.bitten();
    let full = ground.full_percent("memory");
    let mut target = grown(ground.inside(&megabytes(38)));
    until("it has given way", soon(), || ground.full_percent("memory") < full - 0.5);
    assert_eq!((ground.oom_kills(), target.try_wait().unwrap()), (0, None));
    println!("diskFill of memory: {full:.1} % full, {:.1} % when the target needed memory", ground.full_percent("memory"));
    target.kill().unwrap();
    target.wait().unwrap();
}

fn resident(process: &Child) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", process.id())).unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_disk_is_kept_busy() {
    let Some(ground) = ground("io") else { return };
    for (operation, rate) in [(DiskOperation::Write, None), (DiskOperation::Read, mib(4))] {
        let io = DiskIo { path: ground.path("volume"), operation, block: Bytes::new(65_536).unwrap(), at_once: 2, rate };
        let mut holder = ground.hold(Fault::DiskIo(io), LONG);
        holder.started();
        // The first second is the way there.
        holder.bitten();
        let bite = holder.bitten();
        println!("diskIo {operation:?}: {}", bite.says);
        assert_eq!(bite.figures["errors"], 0.0);
        if let Some(rate) = rate {
            let share = bite.figures["bytes_per_second"] / rate.get() as f64;
            assert!((0.8..=1.2).contains(&share), "{share} of the rate asked for");
        }
    }
}

fn files(ground: &Ground) -> Files {
    Files {
        path: ground.path("volume"),
        operations: vec![FileOperation::Open],
        delay: None,
        error: None,
        rate: None,
        percent: percent(100),
    }
}

#[test]
fn an_open_waits_and_only_in_the_target() {
    let Some(ground) = ground("open") else { return };
    let delay_ms = 300 * slower();
    let delay = Some(gameday::api::Duration::from_millis(delay_ms.into()));
    let mut holder = ground.hold(Fault::Files(Files { delay, ..files(&ground) }), LONG);
    holder.started();
    let file = format!("{}/file", ground.path("volume"));
    // Timed by the shell inside: what it takes to get there does not count.
    let timed = format!("before=$(date +%s%N); : < {file}; after=$(date +%s%N); echo $(((after - before) / 1000))");
    let mut took: Vec<f64> = (0..5)
        .map(|_| {
            let output = ground.inside(&timed).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<f64>().unwrap() / 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    println!("files: an open delayed by {delay_ms} ms takes {took:?} ms, the start of date included");
    // Once, not twice; and exactly, where it takes no time to start date.
    let most = if slower() == 1 { 1.1 } else { 1.5 };
    assert!(took[0] >= f64::from(delay_ms) && took[2] < f64::from(delay_ms) * most, "{took:?}");
    let elsewhere = Instant::now();
    std::fs::read(&file).unwrap();
    assert!(elsewhere.elapsed() < Duration::from_millis(100) * slower(), "the same file through another mount waits too");
    let bite = holder.bitten();
    assert!(bite.figures["hit"] >= 1.0 && bite.figures["late_worst_us"] < 50_000.0 * f64::from(slower()), "{bite:?}");
}

#[test]
fn a_part_of_the_opens_fails_with_the_error_asked_for() {
    let Some(ground) = ground("error") else { return };
    let half = Files { error: Some(FileError::Eio), percent: percent(30), ..files(&ground) };
    let mut holder = ground.hold(Fault::Files(half), LONG);
    if let Some(why) = holder.started_or_refused() {
        assert!(why.contains("before Linux 6.14"), "{why}");
        return;
    }
    let file = format!("{}/file", ground.path("volume"));
    let many = format!("count=0; while [ $count -lt 400 ]; do true < {file}; count=$((count + 1)); done");
    let output = ground.inside(&many).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let failed = stderr.lines().filter(|line| line.contains("I/O error") || line.contains("Input/output error")).count();
    println!("files: {failed} of 400 opens failed with EIO at 30 %");
    assert_eq!(failed, stderr.lines().count(), "{stderr}");
    // Four standard deviations of 400 draws.
    assert!((84..=156).contains(&failed), "{failed} of 400");
    assert_eq!(holder.bitten().figures["errors_not_taken"], 0.0);
}

#[test]
fn reads_and_writes_go_on_at_a_rate() {
    let Some(ground) = ground("rate") else { return };
    let slow = Files { rate: mib(4), operations: vec![FileOperation::Access], ..files(&ground) };
    let mut holder = ground.hold(Fault::Files(slow), LONG);
    if let Some(why) = holder.started_or_refused() {
        assert!(why.contains("needs Linux 6.14"), "{why}");
        return;
    }
    let file = format!("{}/large", ground.path("volume"));
    let timed = |what: &str| {
        let began = Instant::now();
        let output = ground.inside(what).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        8.0 / began.elapsed().as_secs_f64()
    };
    let written = timed(&format!("dd if=/dev/zero of={file} bs=512k count=16"));
    let read = timed(&format!("dd if={file} of=/dev/null bs=512k count=16"));
    println!("files at 4 MiB a second: written {written:.2}, read {read:.2} MiB a second");
    assert!((3.0..=4.2).contains(&written) && (3.0..=4.2).contains(&read), "{written}, {read}");
    assert!(holder.bitten().figures["bytes"] > 0.0);
    drop(holder);
    let free = timed(&format!("dd if={file} of=/dev/null bs=64k count=128"));
    assert!(free > 40.0, "{free} MiB a second when it is over");
}

#[test]
fn no_open_is_no_bite() {
    let Some(ground) = ground("nobite") else { return };
    let delay = Some(gameday::api::Duration::from_millis(10));
    let mut holder = ground.hold(Fault::Files(Files { delay, ..files(&ground) }), Duration::from_millis(1500));
    holder.started();
    let ended = holder.end();
    assert!(!ended.events.iter().any(|event| matches!(event, Event::Bite(bite) if bite.bit)), "{ended:?}");
    assert!(matches!(ended.last(), Event::Cleared { .. }), "{ended:?}");
}

#[test]
fn processes_are_used_up_to_the_limit() {
    let Some(ground) = ground("processes") else { return };
    for (order, goal) in [
        (Processes::default(), PIDS_LIMIT),
        (Processes { leave: Some(5), ..Processes::default() }, PIDS_LIMIT - 5),
        (Processes { percent: Some(percent(50)), ..Processes::default() }, PIDS_LIMIT / 2),
    ] {
        let mut holder = ground.hold(Fault::Processes(order), LONG);
        holder.started();
        until("the goal", soon(), || ground.pids() == goal);
        if goal == PIDS_LIMIT {
            let output = ground.inside("ls | cat").stdout(Stdio::null()).output().unwrap();
            assert!(!output.status.success(), "the container could still fork: {output:?}");
        }
        holder.bitten();
        holder.release();
        assert!(matches!(holder.end().last(), Event::Cleared { clean, .. } if clean.clean));
        assert_eq!(ground.pids(), 1);
    }
}

#[test]
fn a_pause_holds_every_thread_and_newcomers_and_lets_go() {
    let Some(ground) = ground("pause") else { return };
    let mut busy = ground.inside("sleep 1000 & sleep 1000 & while :; do :; done").spawn().unwrap();
    until("four processes", soon(), || ground.processes().len() == 4);
    let mut holder = ground.hold(Fault::Pause(Pause::default()), LONG);
    let says = holder.started();
    println!("pause: {says}");
    let all_stand = || ground.processes().into_iter().all(|pid| state(pid) == Some('t'));
    until("all stand still", soon(), all_stand);
    let before = ground.cpu_seconds();
    // As an exec probe of the kubelet would come in.
    let mut probe = ground.inside("while :; do :; done").spawn().unwrap();
    until("a newcomer", soon(), || ground.processes().len() == 5);
    until("the newcomer stands still", soon(), all_stand);
    let since = ground.cpu_seconds();
    std::thread::sleep(Duration::from_millis(500));
    assert!(ground.cpu_seconds() - since < 0.001, "{} s used while paused", ground.cpu_seconds() - before);
    assert_eq!(holder.bitten_now().figures["stopped"], 5.0);
    holder.release();
    let ended = holder.end();
    assert!(matches!(ended.last(), Event::Cleared { clean, .. } if clean.clean), "{ended:?}");
    assert!(ground.processes().into_iter().all(|pid| state(pid) != Some('t')));
    let since = ground.cpu_seconds();
    until("it runs again", soon(), || ground.cpu_seconds() > since + 0.05);
    for child in [&mut busy, &mut probe] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_paused_process_can_be_killed_and_is_reaped() {
    let Some(mut ground) = ground("pausekill") else { return };
    let mut holder = ground.hold(Fault::Pause(Pause::default()), LONG);
    holder.started();
    let began = Instant::now();
    ground.kill();
    println!("pause: a paused process that is killed is reaped after {:?}", began.elapsed());
    assert!(began.elapsed() < cleared_within(), "{:?}", began.elapsed());
    assert!(matches!(holder.end().last(), Event::Lost { .. }));
}

#[test]
fn a_process_that_is_traced_already_is_refused() {
    let Some(ground) = ground("traced") else { return };
    let mut first = ground.hold(Fault::Pause(Pause::default()), LONG);
    first.started();
    let second = ground.hold(Fault::Pause(Pause::default()), LONG).end();
    assert!(second.refusal().contains("traces it already"), "{}", second.refusal());
    assert_eq!(state(ground.pid), Some('t'), "the first pause still holds");
}

#[test]
fn a_signal_bites_when_the_process_is_gone() {
    let Some(mut killed) = ground("kill") else { return };
    let ended = killed.hold(Fault::ContainerKill(ContainerKill::default()), LONG).end();
    assert!(ended.events.iter().any(|event| matches!(event, Event::Bite(bite) if bite.bit)), "{ended:?}");
    assert!(matches!(ended.last(), Event::Cleared { .. }), "{ended:?}");
    killed.kill();

    let Some(ground) = ground("term") else { return };
    let deaf = ground.inside("trap '' TERM; while :; do sleep 1000; done").spawn().unwrap();
    let mut deaf = deaf;
    let pid = i32::try_from(deaf.id()).unwrap();
    until("it runs", soon(), || ground.workers().len() >= 2);
    let mut order = ground.order(Fault::ContainerKill(ContainerKill { signal: KillSignal::Term }), Duration::from_millis(500));
    order.target = gameday::holder::Aim::Pid(pid);
    let ended = super::ground::Holder::start(&order).end();
    assert!(!ended.events.iter().any(|event| matches!(event, Event::Bite(bite) if bite.bit)), "{ended:?}");
    deaf.kill().unwrap();
    deaf.wait().unwrap();
}
