//! Processes of this node, as `/proc` shows them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::holder::{first_of, is_in_container};

/// Orders come in crowds, and to read all of `/proc` takes milliseconds: one reading is good for so long. A holder looks
/// again whether the process it is told of is still the container's.
const FRESH: Duration = Duration::from_secs(1);

/// A process that is killed is gone by then, unless the kernel holds it.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// Whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The processes of this node with their cgroups, as last read.
#[derive(Default)]
pub struct Processes {
    /// When that was begun.
    read: Option<Instant>,
    cgroups: Vec<(i32, String)>,
}

impl Processes {
    /// The first process of this container of this pod.
    ///
    /// # Errors
    /// There is none, or the container is another pod's.
    pub fn of_container(&mut self, container: &str, pod_uid: &str) -> Result<i32, String> {
        let id = container.rsplit("://").next().unwrap_or(container);
        if id.len() < 12 {
            return Err(format!("{container:?} is not a container's id"));
        }
        self.refresh(FRESH);
        if let Some(found) = self.find(id, pod_uid)? {
            return Ok(found);
        }
        // It may have begun since.
        self.refresh(Duration::ZERO);
        self.find(id, pod_uid)?.ok_or_else(|| format!("no process of container {id} on this node"))
    }

    /// Whether any process of this pod is left; its sandbox has one for as long as it lives.
    pub fn has_pod(&mut self, uid: &str) -> bool {
        self.refresh(FRESH);
        self.cgroups.iter().any(|(_, cgroups)| is_of_pod(cgroups, uid))
    }

    fn find(&self, id: &str, pod_uid: &str) -> Result<Option<i32>, String> {
        let of: Vec<&(i32, String)> = self.cgroups.iter().filter(|(_, cgroups)| is_in_container(cgroups, id)).collect();
        if of.iter().any(|(_, cgroups)| !is_of_pod(cgroups, pod_uid)) {
            return Err(format!("container {id} is not one of pod {pod_uid}"));
        }
        Ok(first_of(of.iter().map(|(pid, _)| *pid)))
    }

    fn refresh(&mut self, age_max: Duration) {
        if self.read.is_some_and(|read| read.elapsed() <= age_max) {
            return;
        }
        self.read = Some(Instant::now());
        // What cannot be read has ended meanwhile.
        let cgroups = |pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?));
        self.cgroups = pids().into_iter().filter_map(cgroups).collect();
    }
}

/// systemd's names have underscores.
fn is_of_pod(cgroups: &str, uid: &str) -> bool {
    cgroups.contains(uid) || cgroups.contains(&uid.replace('-', "_"))
}

/// The files of one process, and of no other that is given its pid later.
pub struct Files {
    process: File,
}

impl Files {
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Files { process: File::open(format!("/proc/{pid}"))? })
    }

    /// A file as the process sees it. Symbolic links stay within its root, and nothing is waited for.
    pub fn read(&self, path: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        let root = openat(&self.process, "root", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?);
        let mut read = Vec::new();
        file.take(bytes_max).read_to_end(&mut read)?;
        Ok(read)
    }
}

/// From where a pod's node reaches it: the next hops of its default routes.
pub fn gateways(pid: i32) -> Vec<IpAddr> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
    gateways_v4(&read("route")).into_iter().map(IpAddr::V4).chain(gateways_v6(&read("ipv6_route")).map(IpAddr::V6)).collect()
}

/// Of `/proc/net/route`: a head, then interface, destination, gateway and more, in the byte order of the machine.
fn gateways_v4(routes: &str) -> Vec<Ipv4Addr> {
    let fields = routes.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let default = fields.filter(|fields| fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000"));
    let parse = |hex: &str| u32::from_str_radix(hex, 16).ok().filter(|address| *address != 0);
    default.filter_map(|fields| parse(fields.get(2)?)).map(|address| Ipv4Addr::from(address.to_ne_bytes())).collect()
}

/// Of `/proc/net/ipv6_route`: destination, its prefix, source, its prefix, next hop and more.
fn gateways_v6(routes: &str) -> impl Iterator<Item = Ipv6Addr> {
    let zero = "0".repeat(32);
    routes.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, next, ..] = fields.as_slice() else { return None };
        let is_default = **destination == zero && **next != zero;
        u128::from_str_radix(next, 16).ok().filter(|_| is_default).map(Ipv6Addr::from)
    })
}

/// Ends every holder that an agent has started and that has none any more, waits a moment until they are gone, and says
/// how many they were. Those of another agent, and those that somebody holds by hand, are not touched.
pub fn end_orphans() -> usize {
    let orphans = orphans();
    for process in orphans.iter().filter_map(|(_, process)| process.as_ref()) {
        // One that cannot be killed is found again, by [`orphans`].
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    if !orphans.is_empty() {
        orphans_that_stay();
    }
    orphans.len()
}

/// Those that are still there after a moment, which the kernel may take to end them.
pub fn orphans_that_stay() -> Vec<i32> {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let left: Vec<i32> = orphans().into_iter().map(|(pid, _)| pid).collect();
        if left.is_empty() || Instant::now() > until {
            return left;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Holders, and workers of them, that an agent has started and that have none any more.
pub fn orphans() -> Vec<(i32, Option<OwnedFd>)> {
    let process = |pid: i32| pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok();
    // Opened first: what is found out then is of this process, and not of another with its number.
    let opened = pids().into_iter().filter(|pid| is_orphan(*pid)).map(|pid| (pid, process(pid)));
    opened.filter(|(pid, _)| is_orphan(*pid)).collect()
}

/// A holder or a worker of one, whose parent is neither an agent nor a holder.
fn is_orphan(pid: i32) -> bool {
    let is_agent = |pid: i32| {
        command(pid).is_some_and(|words| words[0].ends_with(b"gameday") && words.get(1).is_some_and(|word| word == b"agent"))
    };
    is_holder(pid) && parent(pid).is_none_or(|parent| !is_agent(parent) && !is_holder(parent))
}

fn is_holder(pid: i32) -> bool {
    command(pid).is_some_and(|words| words.starts_with(&[b"/proc/self/exe".into(), b"hold".into()]))
}

fn command(pid: i32) -> Option<Vec<Vec<u8>>> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(command.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    use rustix::process::kill_process;

    use super::*;

    #[test]
    fn a_holder_without_an_agent_is_ended_and_one_with_an_agent_is_not() {
        let directory = std::env::temp_dir().join(format!("gameday-orphans-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("hold"), "sleep 100 > /dev/null 2>&1 & wait").unwrap();
        fs::write(directory.join("agent"), "exec -a /proc/self/exe sh hold & wait").unwrap();
        // As their command lines have it: what an agent started, and an agent with what it has started.
        let mut orphan = Command::new("sh").arg0("/proc/self/exe").arg("hold").current_dir(&directory).spawn().unwrap();
        let mut agent = Command::new("bash").arg0("gameday").arg("agent").current_dir(&directory).spawn().unwrap();
        let of = |child: &Child| i32::try_from(child.id()).unwrap();
        let held = || pids().into_iter().find(|pid| is_holder(*pid) && parent(*pid) == Some(of(&agent)));
        let until = Instant::now() + Duration::from_secs(10);
        while !is_orphan(of(&orphan)) || held().is_none() {
            assert!(Instant::now() < until, "they never came");
            std::thread::yield_now();
        }
        assert!(end_orphans() >= 1);
        assert_eq!(orphan.wait().unwrap().signal(), Some(libc::SIGKILL));
        let holder = held().expect("it lives");
        for pid in [holder, of(&agent)] {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        }
        agent.wait().unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_next_hop_of_a_default_route_is_the_gateway() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(gateways_v4(routes), [Ipv4Addr::new(192, 168, 2, 1)]);
        assert!(gateways_v4("").is_empty());
    }

    #[test]
    fn so_it_is_with_ipv6() {
        let zero = "0".repeat(32);
        let next = "fd000000000000000000000000000001";
        let routes = format!(
            "fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n\
             {zero} 00 {zero} 00 {next} 00000400 00000001 00000000 00000003 eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n"
        );
        assert_eq!(gateways_v6(&routes).collect::<Vec<_>>(), ["fd00::1".parse::<Ipv6Addr>().unwrap()]);
    }
}
