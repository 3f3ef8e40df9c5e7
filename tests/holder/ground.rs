//! A container for a test: a process in cgroups of its own, with limits, a pod's cgroup above it, a mount
//! namespace and a volume; and a holder beside it, run as the agent runs it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use gameday::holder::{Aim, Bite, Bytes, Event, Fault, Order};
use rustix::process::{Pid, Signal, kill_process};

const CGROUP: &str = "/sys/fs/cgroup";
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "cpuset", "memory", "blkio", "pids"];
/// The container's cgroup, its pod's, and the one of all pods.
const LEVELS: usize = 3;
const POD: &str = "pod21d2a9b4-1a2b-3c4d-5e6f-7a8b9c0d1e2f";

pub const MIB: u64 = 1 << 20;

pub fn mib(count: u64) -> Option<Bytes> {
    Some(Bytes::new(count * MIB).unwrap())
}
pub const CPU_LIMIT_CORES: f64 = 0.5;
pub const MEMORY_LIMIT: u64 = 256 * MIB;
pub const PIDS_LIMIT: u64 = 200;
const VOLUME: u64 = 128 * MIB;

/// How long a thing that takes milliseconds may take on a machine that others use too.
pub fn soon() -> Duration {
    Duration::from_secs(10) * slower()
}

/// What a killed holder has to be cleared within.
pub fn cleared_within() -> Duration {
    Duration::from_secs(1) * slower()
}

/// How many times slower everything may be than on a real machine: `GAMEDAY_TIMES_SLOWER=5` on one that another
/// emulates. Widens the bars on times and slows down what is sent, and touches no other bar.
pub fn slower() -> u32 {
    static SAID: Once = Once::new();
    let slower = std::env::var("GAMEDAY_TIMES_SLOWER").map_or(1, |text| text.parse().unwrap());
    if slower != 1 {
        SAID.call_once(|| {
            let says = format!("#### TIMES MAY BE {slower} TIMES AS LONG HERE: nothing is said about how exact or how fast.");
            let _ = writeln!(std::io::stderr(), "\n{says}\n");
        });
    }
    slower
}

/// A container: dropping it ends all its processes and removes all that was made for it.
pub struct Ground {
    pub id: String,
    pub pid: i32,
    directory: PathBuf,
    child: Child,
}

/// `None`, said on the terminal, where a test cannot run.
pub fn ground(name: &str) -> Option<Ground> {
    let why = if !rustix::process::geteuid().is_root() {
        "it needs root: it makes cgroups and mounts"
    } else if !Path::new(CGROUP).join("memory/cgroup.procs").exists() && !is_v2() {
        "no cgroup tree at /sys/fs/cgroup"
    } else {
        return Some(Ground::new(name));
    };
    // Past the capture of the test harness, which would swallow it.
    let _ = writeln!(std::io::stderr(), "\n#### NOT RUN: {name}: {why}\n");
    None
}

pub fn is_v2() -> bool {
    Path::new(CGROUP).join("cgroup.controllers").exists()
}

impl Ground {
    fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Orphaned workers come to us to be reaped, and not to an init that takes its time.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:032x}{number:032x}", std::process::id());
        let directory = std::env::temp_dir().join(format!("gameday-holder-{name}-{}-{number}", std::process::id()));
        for cgroup in cgroups(&id) {
            make_cgroup(&cgroup);
        }
        write_limits(&id);
        fs::create_dir_all(directory.join("volume")).unwrap();
        let image = directory.join("image");
        fs::File::create(&image).unwrap().set_len(VOLUME).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg("-F").arg(&image));
        run(Command::new("mount").arg("-o").arg("loop").arg(&image).arg(directory.join("volume")));
        fs::write(directory.join("volume/file"), "contents\n").unwrap();
        // In a mount namespace of its own, with the volume and a small tmpfs where a container has them.
        let script = format!(
            "for cgroup in {}; do echo $$ > $cgroup/cgroup.procs; done; mkdir -p {d}/memory; mount --bind {d}/volume {d}/volume; \
             mount -t tmpfs -o size=100m none {d}/memory; echo ready; exec sleep 1000",
            cgroups(&id).iter().map(|cgroup| cgroup.display().to_string()).collect::<Vec<_>>().join(" "),
            d = directory.display()
        );
        let mut child = Command::new("unshare").args(["--mount", "sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Ground { pid: pid(&child), id, directory, child }
    }

    /// A path that the container sees: `volume` is ext4, `memory` a tmpfs.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    pub fn order(&self, fault: Fault, hold: Duration) -> Order {
        let hold = gameday::api::Duration::from_millis(u64::try_from(hold.as_millis()).unwrap());
        let parent = Some(i32::try_from(std::process::id()).unwrap());
        Order { target: Aim::Container(self.id.clone()), fault, hold, seed: 7, parent }
    }

    /// A holder, as the agent starts it.
    pub fn hold(&self, fault: Fault, hold: Duration) -> Holder {
        Holder::start(&self.order(fault, hold))
    }

    /// Runs something inside: its mounts, its cgroups.
    pub fn inside(&self, script: &str) -> Command {
        let join: Vec<String> =
            cgroups(&self.id).iter().map(|cgroup| format!("echo $$ > {}/cgroup.procs", cgroup.display())).collect();
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "-r", "sh", "-c", &format!("{}; {script}", join.join("; "))]);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Runs something in another container of the same pod, as far as its memory goes.
    pub fn beside(&self, script: &str) -> Command {
        let cgroup = self.sibling();
        fs::create_dir_all(&cgroup).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("echo $$ > {}/cgroup.procs; {script}", cgroup.display())]);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    fn sibling(&self) -> PathBuf {
        cgroup(&self.id, "memory").with_file_name("beside")
    }

    pub fn read(&self, controller: &str, name: &str) -> String {
        fs::read_to_string(cgroup(&self.id, controller).join(name)).unwrap()
    }

    pub fn number(&self, controller: &str, name: &str) -> u64 {
        self.read(controller, name).trim().parse().unwrap()
    }

    pub fn write(&self, controller: &str, name: &str, value: &str) {
        fs::write(cgroup(&self.id, controller).join(name), value).unwrap();
    }

    /// The same file of the pod's cgroup.
    pub fn write_pod(&self, controller: &str, name: &str, value: &str) {
        fs::write(cgroup(&self.id, controller).parent().unwrap().join(name), value).unwrap();
    }

    /// Processor time that the container used, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        if is_v2() {
            self.stat("cpu", "cpu.stat", "usage_usec") as f64 / 1e6
        } else {
            self.number("cpuacct", "cpuacct.usage") as f64 / 1e9
        }
    }

    /// Its working set in percent of the limit, as the kubelet counts it.
    pub fn memory_percent(&self) -> f64 {
        let (usage, inactive) = if is_v2() {
            (self.number("memory", "memory.current"), self.stat("memory", "memory.stat", "inactive_file"))
        } else {
            (self.number("memory", "memory.usage_in_bytes"), self.stat("memory", "memory.stat", "total_inactive_file"))
        };
        (usage - inactive) as f64 * 100.0 / MEMORY_LIMIT as f64
    }

    pub fn oom_kills(&self) -> u64 {
        let name = if is_v2() { "memory.events" } else { "memory.oom_control" };
        self.stat("memory", name, "oom_kill")
    }

    pub fn stat(&self, controller: &str, name: &str, key: &str) -> u64 {
        let text = self.read(controller, name);
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok()).unwrap()
    }

    pub fn pids(&self) -> u64 {
        self.number("pids", "pids.current")
    }

    /// How full a path is, as df counts it, seen by the container.
    pub fn full_percent(&self, name: &str) -> f64 {
        let status = rustix::fs::statvfs(format!("/proc/{}/root{}", self.pid, self.path(name))).unwrap();
        let used = status.f_blocks - status.f_bfree;
        used as f64 * 100.0 / (used + status.f_bavail) as f64
    }

    /// Every process in any of its cgroups.
    pub fn processes(&self) -> Vec<i32> {
        let mut all: Vec<i32> = cgroups(&self.id)
            .iter()
            .flat_map(|cgroup| {
                fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .filter_map(|line| line.parse().ok())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Every process in them that is not the container's first.
    pub fn workers(&self) -> Vec<i32> {
        self.processes().into_iter().filter(|pid| *pid != self.pid).collect()
    }

    /// All that a fault could leave behind, for comparing before and after.
    pub fn traces(&self) -> Vec<String> {
        let mut traces = vec![format!("processes {:?}", self.processes())];
        for cgroup in cgroups(&self.id) {
            let children = fs::read_dir(&cgroup).unwrap().flatten().filter(|entry| entry.file_type().unwrap().is_dir()).count();
            traces.push(format!("{} has {children} children", cgroup.display()));
            for name in ["cpu.cfs_quota_us", "cpu.max", "memory.limit_in_bytes", "memory.max", "pids.max", "cpuset.cpus"] {
                if let Ok(value) = fs::read_to_string(cgroup.join(name)) {
                    traces.push(format!("{name} {}", value.trim()));
                }
            }
        }
        for name in ["volume", "memory"] {
            let entries = fs::read_dir(format!("/proc/{}/root{}", self.pid, self.path(name))).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            traces.push(format!("{name} {names:?}"));
            traces.push(format!("{name} {:.0} % full", self.full_percent(name)));
        }
        // Other tests' mounts come and go in every namespace.
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap();
        traces.extend(mounts.lines().filter(|mount| mount.contains(&self.path(""))).map(str::to_owned));
        traces.push(format!("traced by {}", field(self.pid, "TracerPid:").unwrap()));
        traces
    }

    /// Kills the container's first process, and reaps it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let until = Instant::now() + soon();
        let workers = self.workers();
        while !self.processes().is_empty() && Instant::now() < until {
            self.processes().into_iter().for_each(signal_kill);
            let _ = self.child.try_wait();
            reap(&workers);
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = fs::remove_dir(self.sibling());
        for cgroup in cgroups(&self.id) {
            cgroup.ancestors().take(LEVELS).for_each(|directory| drop(fs::remove_dir(directory)));
        }
        let _ = Command::new("umount").arg(self.directory.join("volume")).status();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A holder that runs, its stdin and what it says.
pub struct Holder {
    pub pid: i32,
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    events: Receiver<Event>,
}

/// What a holder said at its end, and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub events: Vec<Event>,
    pub status: ExitStatus,
}

impl Holder {
    pub fn start(order: &Order) -> Self {
        Holder::start_by(Command::new(env!("CARGO_BIN_EXE_gameday")).arg("hold"), order)
    }

    /// By a command that becomes the holder in the end, in the same process.
    pub fn start_by(command: &mut Command, order: &Order) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{}", serde_json::to_string(order).unwrap()).unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (said, events) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
                if said.send(event).is_err() {
                    break;
                }
            }
        });
        Holder { pid: pid(&child), child, stdin: Some(stdin), events }
    }

    /// The next event.
    pub fn next(&mut self) -> Event {
        match self.events.recv_timeout(soon()) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => panic!("the holder says nothing"),
            Err(RecvTimeoutError::Disconnected) => panic!("the holder has ended: {:?}", self.child.wait()),
        }
    }

    pub fn started(&mut self) -> String {
        match self.next() {
            Event::Started(started) => started.says,
            other => panic!("not started: {other:?}"),
        }
    }

    /// Why it was refused; `None` where it has started.
    pub fn started_or_refused(&mut self) -> Option<String> {
        match self.next() {
            Event::Started(_) => None,
            Event::Refused { why } => Some(why),
            other => panic!("neither started nor refused: {other:?}"),
        }
    }

    /// The next bite that bit.
    pub fn bitten(&mut self) -> Bite {
        loop {
            match self.next() {
                Event::Bite(bite) if bite.bit => return bite,
                Event::Bite(_) => {}
                other => panic!("no bite: {other:?}"),
            }
        }
    }

    /// The next bite that bit, of those said from now on.
    pub fn bitten_now(&mut self) -> Bite {
        while self.events.try_recv().is_ok() {}
        self.bitten()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }

    /// Closes its stdin.
    pub fn release(&mut self) {
        self.stdin = None;
    }

    /// Waits until it has ended by itself.
    pub fn end(mut self) -> Ended {
        let events: Vec<Event> = std::iter::from_fn(|| match self.events.recv_timeout(soon()) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the holder does not end"),
        })
        .collect();
        Ended { events, status: self.child.wait().unwrap() }
    }
}

/// A cgroup such as the agent's own, in a pod beside the container's, on version 2.
pub struct AgentsCgroup(PathBuf);

impl AgentsCgroup {
    pub fn beside(ground: &Ground) -> Self {
        let directory = cgroup(&ground.id, "").ancestors().nth(LEVELS - 1).unwrap().join("agents-pod/agent");
        fs::create_dir_all(&directory).unwrap();
        AgentsCgroup(directory)
    }

    /// `gameday hold` as a pod's container runs it there: it sees no other cgroup than its own.
    pub fn hold(&self) -> Command {
        let mut command = Command::new("sh");
        let inside = "umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" hold";
        let script =
            format!("echo $$ > {}/cgroup.procs && exec unshare --cgroup --mount sh -c '{inside}' \"$0\"", self.0.display());
        command.args(["-c", &script, env!("CARGO_BIN_EXE_gameday")]);
        command
    }
}

impl Drop for AgentsCgroup {
    fn drop(&mut self) {
        for directory in [&self.0, self.0.parent().unwrap()] {
            fs::remove_dir(directory).unwrap();
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    pub fn last(&self) -> &Event {
        self.events.last().expect("it said something at its end")
    }

    pub fn refusal(&self) -> &str {
        assert_eq!(self.status.code(), Some(4), "{self:?}");
        match self.last() {
            Event::Refused { why } => why,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// Waits until this is so, and returns how long it took.
pub fn until(what: &str, within: Duration, mut is: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < within, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
    began.elapsed()
}

/// A line of /proc/PID/status.
pub fn field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}

/// `t` for a thread that its tracer stopped.
pub fn state(pid: i32) -> Option<char> {
    field(pid, "State:")?.chars().next()
}

/// Reaps children of a child that died, which are ours now. By number, so that no `Child` loses its status.
pub fn reap(pids: &[i32]) {
    for pid in pids {
        let _ = rustix::process::waitpid(Pid::from_raw(*pid), rustix::process::WaitOptions::NOHANG);
    }
}

pub fn signal_kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn cgroup(id: &str, controller: &str) -> PathBuf {
    let hierarchy = if is_v2() { Path::new(CGROUP).to_owned() } else { Path::new(CGROUP).join(controller) };
    // Each container in a pod of its own, below a node's directory of its own: tests run side by side.
    hierarchy.join(format!("gameday-test-{}", &id[24..])).join(format!("{POD}{}", &id[52..])).join(id)
}

fn cgroups(id: &str) -> Vec<PathBuf> {
    if is_v2() { vec![cgroup(id, "")] } else { CONTROLLERS.iter().map(|controller| cgroup(id, controller)).collect() }
}

fn make_cgroup(cgroup: &Path) {
    let mut levels: Vec<&Path> = cgroup.ancestors().take(LEVELS).collect();
    levels.reverse();
    for directory in levels {
        let above = directory.parent().unwrap();
        if is_v2() {
            fs::write(above.join("cgroup.subtree_control"), "+cpu +memory +pids +io").unwrap();
        }
        fs::create_dir_all(directory).unwrap();
        // A new cpuset has no processors, and nobody may join it.
        for name in ["cpuset.cpus", "cpuset.mems"] {
            if !is_v2() && above.join(name).exists() {
                fs::write(directory.join(name), fs::read_to_string(above.join(name)).unwrap()).unwrap();
            }
        }
    }
}

fn write_limits(id: &str) {
    let write = |controller: &str, name: &str, value: String| fs::write(cgroup(id, controller).join(name), value).unwrap();
    // The machine is shared; what a container gets below its limit must not depend on the others.
    let (name, value) = if is_v2() { ("cpu.weight", "10000") } else { ("cpu.shares", "262144") };
    cgroup(id, "cpu").ancestors().take(LEVELS).for_each(|directory| fs::write(directory.join(name), value).unwrap());
    let quota = (CPU_LIMIT_CORES * 100_000.0) as u64;
    if is_v2() {
        write("cpu", "cpu.max", format!("{quota} 100000"));
        write("memory", "memory.max", MEMORY_LIMIT.to_string());
    } else {
        write("cpu", "cpu.cfs_quota_us", quota.to_string());
        write("memory", "memory.limit_in_bytes", MEMORY_LIMIT.to_string());
    }
    write("pids", "pids.max", PIDS_LIMIT.to_string());
}
