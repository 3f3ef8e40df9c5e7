//! Whom a holder hits: one process, found once and then held on to, so that no reused pid is ever hit.

use std::ffi::CStr;
use std::fs::{File, read_to_string};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::cgroup::{self, Membership};
use super::frame::Refusal;
use super::order::Aim;

/// A process, and with it its container. While this exists the kernel does not give its pid to another.
pub struct Target {
    pub pid: i32,
    /// The container's id, where the cgroup names one.
    pub container: Option<String>,
    /// Asked for by container, not by pid.
    pub whole: bool,
    pub memberships: Vec<Membership>,
    pidfd: OwnedFd,
}

impl Target {
    /// # Guarantees
    /// The process was in the container asked for after the pidfd was taken: no race with a reused pid.
    ///
    /// # Errors
    /// Nobody there, or this process itself.
    pub fn find(aim: &Aim) -> Result<Self, Refusal> {
        match aim {
            Aim::Pid(pid) => Target::of(*pid, None),
            Aim::Container(id) => {
                let id = container_id(id)?;
                let first = first_process(id).map_err(|error| Refusal::new(format!("cannot read /proc: {error}")))?;
                let pid = first.ok_or_else(|| Refusal::new(format!("no process of container {id} on this machine")))?;
                Target::of(pid, Some(id))
            }
            Aim::Process { container, pid } => Target::of(*pid, Some(container_id(container)?)),
        }
    }

    fn of(pid: i32, wanted: Option<&str>) -> Result<Self, Refusal> {
        let raw = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| Refusal::new(format!("{pid} is not a pid")))?;
        if raw == rustix::process::getpid() {
            return Err(Refusal::new("this is the holder itself"));
        }
        if pid == 1 {
            return Err(Refusal::new("process 1 is what everything else here depends on"));
        }
        let gone = |error: io::Error| Refusal::new(format!("process {pid}: {error}"));
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|error| gone(error.into()))?;
        let memberships = cgroup::parse(&read_to_string(format!("/proc/{pid}/cgroup")).map_err(gone)?);
        let container = memberships.iter().find_map(|membership| cgroup::container_id(&membership.path)).map(str::to_owned);
        if let Some(wanted) = wanted
            && !container.as_deref().is_some_and(|id| id.starts_with(wanted))
        {
            return Err(Refusal::new(format!("process {pid} is not in container {wanted} any more")));
        }
        let target = Target { pid, container, whole: wanted.is_some(), memberships, pidfd };
        if target.is_gone() {
            return Err(Refusal::new(format!("process {pid} has ended")));
        }
        Ok(target)
    }

    /// The same process for something that watches it by itself.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn watch(&self) -> Result<OwnedFd, Refusal> {
        self.pidfd.try_clone().map_err(|error| Refusal::new(format!("cannot watch the target: {error}")))
    }

    pub fn is_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fd = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut fd, Some(&super::leash::timespec(std::time::Duration::ZERO))).is_ok_and(|ready| ready > 0)
    }

    /// Opens a path as the target sees it: its mounts, its root, and symbolic links that stay inside that root.
    ///
    /// # Errors
    /// The target's root is closed to this process, or the path cannot be opened.
    pub fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Refusal> {
        if !path.starts_with('/') {
            return Err(Refusal::new(format!("path {path:?} must begin with /")));
        }
        let root = File::open(format!("/proc/{}/root", self.pid)).map_err(|error| {
            Refusal::new(format!("the target's files cannot be reached: {error}; it needs the capability SYS_PTRACE"))
        })?;
        let path_in_root = path.trim_start_matches('/');
        let path_in_root = if path_in_root.is_empty() { "." } else { path_in_root };
        openat2(root, path_in_root, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
            .map_err(|error| Refusal::new(format!("{path} in the target: {}", io::Error::from(error))))
    }

    /// A directory as the target sees it, with what its file system is.
    ///
    /// # Errors
    /// As [`Target::open`].
    pub fn directory(&self, path: &str) -> Result<OwnedFd, Refusal> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }
}

/// An unnamed file in a directory: it is gone when its last descriptor is.
///
/// # Errors
/// The file system has no such files, so that a killed holder would leave one behind.
pub fn unnamed_file(directory: &OwnedFd, flags: OFlags) -> Result<File, Refusal> {
    const HERE: &CStr = c".";
    let flags = flags | OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(directory, HERE, flags, Mode::RUSR | Mode::WUSR).map(File::from).map_err(|error| {
        Refusal::new(match error {
            rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL => {
                format!("this file system has no unnamed files ({error}): a killed holder would leave one behind")
            }
            error => format!("cannot make an unnamed file there: {error}"),
        })
    })
}

fn container_id(id: &str) -> Result<&str, Refusal> {
    let id = id.rsplit("://").next().unwrap_or(id);
    if id.len() < 12 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Refusal::new(format!("{id:?} is not a container's id: 12 to 64 hexadecimal digits")));
    }
    Ok(id)
}

fn first_process(id: &str) -> io::Result<Option<i32>> {
    let mut found = Vec::new();
    for entry in Path::new("/proc").read_dir()? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // What cannot be read has ended meanwhile.
        let Ok(cgroups) = read_to_string(format!("/proc/{pid}/cgroup")) else { continue };
        if is_in_container(&cgroups, id) {
            found.push(pid);
        }
    }
    Ok(first_of(found))
}

/// Whether this, as `/proc/PID/cgroup` has it, is a process of a container whose id begins so.
pub fn is_in_container(cgroups: &str, id: &str) -> bool {
    let of = |membership: &Membership| cgroup::container_id(&membership.path).is_some_and(|found| found.starts_with(id));
    cgroup::parse(cgroups).iter().any(of)
}

/// Of a container's processes the first: the init of its pid namespace, else the oldest.
pub fn first_of(pids: impl IntoIterator<Item = i32>) -> Option<i32> {
    let place = |pid: i32| {
        let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
        let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((!is_init(&status), started(&stat), pid))
    };
    pids.into_iter().filter_map(place).min().map(|(_, _, pid)| pid)
}

/// Pid 1 in its innermost pid namespace, and in more than one.
fn is_init(status: &str) -> bool {
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let pids: Vec<&str> = pids.split_whitespace().collect();
    pids.len() > 1 && pids.last() == Some(&"1")
}

/// Start time in ticks, field 22; fields are counted behind the command, which may contain anything.
fn started(stat: &str) -> u64 {
    let behind = stat.rfind(')').map_or("", |end| &stat[end + 1..]);
    behind.split_whitespace().nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_of_an_inner_pid_namespace_is_known() {
        assert!(is_init("Name:\tx\nNSpid:\t4711\t1\n"));
        assert!(!is_init("NSpid:\t1\n"));
        assert!(!is_init("NSpid:\t4711\t12\n"));
    }

    #[test]
    fn a_command_with_a_bracket_does_not_move_the_fields() {
        let stat = format!("7 (a) b) S {} 4242 0", ["0"; 18].join(" "));
        assert_eq!(started(&stat), 4242);
    }
}
