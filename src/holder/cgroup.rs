//! The target's cgroup, in version 1 and 2, by open directories: the limits that bind it, what it uses, and
//! the way in for a worker. Never a new child cgroup: one that stayed would keep the runtime from removing the
//! container's own.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open, openat};

use super::frame::Refusal;
use super::node;
use super::target::Target;

/// One line of /proc/PID/cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Version 1: the controllers of this hierarchy. Version 2: none.
    pub controllers: Vec<String>,
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// How a hierarchy is found: by its name in version 1, by a file that only it has in version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    Cpu,
    CpuAccounting,
    CpuSet,
    Memory,
    Io,
    Pids,
}

/// A container of a pod has the pod's cgroup above it, and a scope may have one more in between.
const LEVELS_MAX: usize = 3;

/// Where a tree of the node's cgroups may be seen: here, or, in a container, through a process of the node.
const TREE: &str = "/sys/fs/cgroup";

/// The directories between a container's private view and the node's tree, at most.
const PRIVATE_DEPTH_MAX: usize = 4;

pub struct Cgroup {
    pub version: Version,
    pub path: PathBuf,
    /// Its own, then its parents' as far as the pod's. What lies above belongs to others too.
    levels: Vec<OwnedFd>,
    /// The whole machine.
    pub is_root: bool,
}

impl Cgroup {
    /// The cgroup that counts this for the target.
    ///
    /// # Errors
    /// The kernel does not count it, or the node's cgroup tree is not visible here.
    pub fn of(target: &Target, controller: Controller) -> Result<Self, Refusal> {
        let named = controller.name();
        let v1 = target.memberships.iter().find(|membership| membership.controllers.iter().any(|name| name == named));
        let v2 = target.memberships.iter().find(|membership| membership.controllers.is_empty());
        let (version, membership) = match (v1, v2) {
            (Some(membership), _) => (Version::V1, membership),
            (None, Some(membership)) if controller.is_in_v2() => (Version::V2, membership),
            (None, _) => return Err(Refusal::new(format!("this kernel counts no {named} by cgroup"))),
        };
        let found = trees().find_map(|tree| Some((resolve(&tree, target.pid, version, membership)?, tree)));
        let ((directory, is_root), tree) = found.ok_or_else(|| {
            Refusal::new(format!("the cgroup {} ({named}) of process {} is not visible here", membership.path, target.pid))
        })?;
        let mut levels = Vec::new();
        for level in levels_up(&directory) {
            levels
                .push(open_directory(level).map_err(|error| Refusal::new(format!("{}: {error}", tree.shown(level).display())))?);
        }
        let cgroup = Cgroup { version, path: tree.shown(&directory), levels, is_root };
        if version == Version::V2 && !is_root && !cgroup.has(controller) {
            return Err(Refusal::new(format!("the controller {named} is not enabled in {}", cgroup.path.display())));
        }
        Ok(cgroup)
    }

    /// Opened now, while it is permitted; a worker writes to it later.
    ///
    /// # Errors
    /// This process may not move processes into it.
    pub fn door(&self) -> Result<File, Refusal> {
        openat(&self.levels[0], "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map(File::from)
            .map_err(|error| Refusal::new(format!("no worker may join {}: {error}", self.path.display())))
    }

    /// A file of the target's own cgroup.
    pub fn read(&self, name: &str) -> io::Result<String> {
        read(&self.levels[0], name)
    }

    pub fn number(&self, name: &str) -> io::Result<u64> {
        number(&self.levels[0], name)
    }

    /// The value after `key` in a file of keys and values.
    pub fn value(&self, name: &str, key: &str) -> io::Result<u64> {
        let found = value(&self.read(name)?, key);
        found.ok_or_else(|| io::Error::other(format!("no {key} in {name} of {}", self.path.display())))
    }

    /// What `ask` finds at the target's own level and at those of its pod, nothing where it finds nothing.
    pub fn at_each_level<T>(&self, ask: impl Fn(&Level<'_>) -> Option<T>) -> Vec<T> {
        self.levels.iter().filter_map(|directory| ask(&Level { directory })).collect()
    }

    /// The processes in it and in what is below it.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut processes = Vec::new();
        gather(&self.levels[0], &mut processes, 0)?;
        Ok(processes)
    }

    fn has(&self, controller: Controller) -> bool {
        self.read("cgroup.controllers").is_ok_and(|text| text.split_whitespace().any(|name| name == controller.name_in_v2()))
    }
}

/// One directory on the way from a container up to its pod.
pub struct Level<'a> {
    directory: &'a OwnedFd,
}

impl Level<'_> {
    /// A limit: `None` where there is none, or no such file.
    pub fn number(&self, name: &str) -> Option<u64> {
        number(self.directory, name).ok()
    }

    pub fn text(&self, name: &str) -> Option<String> {
        read(self.directory, name).ok()
    }

    /// The value after `key` in a file of keys and values.
    pub fn value(&self, name: &str, key: &str) -> Option<u64> {
        value(&self.text(name)?, key)
    }
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::CpuAccounting => "cpuacct",
            Controller::CpuSet => "cpuset",
            Controller::Memory => "memory",
            Controller::Io => "blkio",
            Controller::Pids => "pids",
        }
    }

    fn name_in_v2(self) -> &'static str {
        match self {
            Controller::Io => "io",
            Controller::CpuAccounting => "cpu",
            other @ (Controller::Cpu | Controller::CpuSet | Controller::Memory | Controller::Pids) => other.name(),
        }
    }

    /// In version 2 there is one hierarchy, joined once; accounting is part of `cpu`.
    fn is_in_v2(self) -> bool {
        !matches!(self, Controller::CpuAccounting | Controller::CpuSet)
    }
}

/// Whether this kernel counts this by cgroup, the node's tree is visible, and its files may be written.
///
/// # Errors
/// Why not.
pub fn check(controller: Controller) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("joining a container's cgroup needs user 0".into());
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    let v1 = parse(&own).into_iter().find(|membership| membership.controllers.iter().any(|name| name == controller.name()));
    let names = controller.name_in_v2();
    let (version, controllers) = v1.as_ref().map_or((Version::V2, &[][..]), |of| (Version::V1, &of.controllers));
    let counts = |directory: &PathBuf| match version {
        Version::V1 => directory.join("cgroup.procs").exists(),
        Version::V2 => {
            let text = std::fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
            text.split_whitespace().any(|name| name == names)
        }
    };
    let found = trees().any(|tree| hierarchies(&tree, version, controllers).iter().any(counts));
    if found { Ok(()) } else { Err(format!("no cgroup tree that counts {names} is visible here")) }
}

pub fn parse(text: &str) -> Vec<Membership> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers = controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Some(Membership { controllers, path: path.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// The container's id in a cgroup path, in every shape a runtime and cgroup driver give it: `/<id>`,
/// `/cri-containerd-<id>.scope`, `/crio-<id>.scope`, `/docker-<id>.scope`, `…slice:cri-containerd:<id>`, and
/// with one more level, `container`, below. Not the monitor beside it, `crio-conmon-<id>`.
pub fn container_id(path: &str) -> Option<&str> {
    let path = path.strip_suffix("/container").unwrap_or(path);
    let last = path.rsplit('/').next()?;
    if last.contains("conmon") {
        return None;
    }
    let last = last.strip_suffix(".scope").unwrap_or(last);
    let id = last.rsplit([':', '-']).next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// A pod's directory, from either cgroup driver.
fn is_pod(name: &str) -> bool {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = name.strip_prefix("pod").or_else(|| name.rfind("-pod").map(|at| &name[at + 4..]));
    uid.is_some_and(|uid| uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_')))
}

/// The directory itself, and its parents up to the pod's where there is one.
fn levels_up(path: &Path) -> Vec<&Path> {
    let named = |directory: &Path, what: fn(&str) -> bool| directory.file_name().and_then(|name| name.to_str()).is_some_and(what);
    let up: Vec<&Path> = path.ancestors().take(LEVELS_MAX).collect();
    let pod = up.iter().position(|directory| named(directory, is_pod));
    let inner = named(path, |name| name == "container") && up.len() > 1;
    let count = pod.map_or(if inner { 2 } else { 1 }, |index| index + 1);
    up.into_iter().take(count).collect()
}

/// The directory of this cgroup in a tree: one in which the kernel lists the process, so it is the right one, and
/// whether it is the root of the tree.
fn resolve(tree: &Tree, pid: i32, version: Version, membership: &Membership) -> Option<(PathBuf, bool)> {
    hierarchies(tree, version, &membership.controllers).into_iter().find_map(|hierarchy| {
        let (above, below) = split_private(&membership.path);
        let found = if above {
            search(&hierarchy, below, pid, PRIVATE_DEPTH_MAX)
        } else {
            let directory = hierarchy.join(below);
            lists(&directory, pid).then_some(directory)
        }?;
        let is_root = found == hierarchy || !found.parent().is_some_and(|parent| parent.join("cgroup.procs").exists());
        Some((found, is_root))
    })
}

/// A tree of cgroups, open: the process that showed it may end meanwhile, as a child that the runtime has just
/// forked does.
struct Tree {
    _directory: OwnedFd,
    path: PathBuf,
}

impl Tree {
    fn at(path: &str) -> Option<Tree> {
        let directory = open_directory(Path::new(path)).ok()?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        Some(Tree { _directory: directory, path })
    }

    /// A directory in it, as the node calls it.
    fn shown(&self, directory: &Path) -> PathBuf {
        Path::new(TREE).join(directory.strip_prefix(&self.path).unwrap_or(directory))
    }
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// What is visible here, then what the node's processes see.
fn trees() -> impl Iterator<Item = Tree> {
    node::roots().filter_map(|root| Tree::at(&format!("{root}{TREE}")))
}

fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn hierarchies(tree: &Tree, version: Version, controllers: &[String]) -> Vec<PathBuf> {
    let names: Vec<String> = match version {
        Version::V1 => std::iter::once(controllers.join(",")).chain(controllers.iter().cloned()).collect(),
        Version::V2 => vec![String::new(), "unified".into()],
    };
    names.into_iter().map(|name| if name.is_empty() { tree.path.clone() } else { tree.path.join(name) }).collect()
}

/// Seen from a private cgroup namespace, another's path begins with as many `/..` as this process lies deep.
fn split_private(path: &str) -> (bool, &str) {
    let mut rest = path;
    while let Some(shorter) = rest.strip_prefix("/..") {
        rest = shorter;
    }
    (rest.len() < path.len(), rest.trim_start_matches('/'))
}

fn search(directory: &Path, below: &str, pid: i32, depth: usize) -> Option<PathBuf> {
    let here = directory.join(below);
    if lists(&here, pid) {
        return Some(here);
    }
    let children = std::fs::read_dir(directory).ok().filter(|_| depth > 0)?.flatten();
    let directories = children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).find_map(|child| search(&child, below, pid, depth - 1))
}

fn lists(directory: &Path, pid: i32) -> bool {
    let Ok(text) = std::fs::read_to_string(directory.join("cgroup.procs")) else { return false };
    text.lines().any(|line| line.parse() == Ok(pid))
}

fn gather(directory: &OwnedFd, processes: &mut Vec<i32>, depth: usize) -> io::Result<()> {
    processes.extend(read(directory, "cgroup.procs")?.lines().filter_map(|line| line.parse::<i32>().ok()));
    // Containers that make cgroups of their own (init systems, nested runtimes) are a few levels deep.
    if depth == PRIVATE_DEPTH_MAX {
        return Ok(());
    }
    let reopened = openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&reopened)? {
        let entry = entry?;
        if entry.file_type() == rustix::fs::FileType::Directory && !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // One that went away meanwhile holds no process.
            if let Ok(child) = openat(&reopened, entry.file_name(), flags, Mode::empty()) {
                gather(&child, processes, depth + 1)?;
            }
        }
    }
    Ok(())
}

fn read(directory: &OwnedFd, name: &str) -> io::Result<String> {
    let mut text = String::new();
    File::from(openat(directory.as_fd(), name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?).read_to_string(&mut text)?;
    Ok(text)
}

fn number(directory: &OwnedFd, name: &str) -> io::Result<u64> {
    let text = read(directory, name)?;
    text.trim().parse().map_err(|_| io::Error::other(format!("{name} is {:?}, not a number", text.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_container_is_known_in_every_shape_of_path() {
        let shapes = [
            "/kubepods/besteffort/pod21d2/ID",
            "/kubepods.slice/kubepods-pod21d2.slice/cri-containerd-ID.scope",
            "/kubepods.slice/kubepods-pod21d2.slice/crio-ID.scope",
            "/kubepods.slice/kubepods-pod21d2.slice/crio-ID.scope/container",
            "/system.slice/docker-ID.scope",
            "/docker/ID",
            "/system.slice/containerd.service/kubepods-burstable-pod21d2.slice:cri-containerd:ID",
            "/../../burstable/pod21d2/ID",
        ];
        for shape in shapes {
            assert_eq!(container_id(&shape.replace("ID", ID)), Some(ID), "{shape}");
        }
        for shape in ["/", "/kubepods/pod21d2", "/kubepods.slice/crio-conmon-ID.scope", "/user.slice/session-2.scope", "/x/ID0"] {
            assert_eq!(container_id(&shape.replace("ID", ID)), None, "{shape}");
        }
    }

    #[test]
    fn limits_are_looked_for_up_to_the_pod_and_no_further() {
        let uid = "21d2a9b4-1a2b-3c4d-5e6f-7a8b9c0d1e2f";
        let path = format!("/cg/kubepods/burstable/pod{uid}/{ID}");
        assert_eq!(levels_up(Path::new(&path)).last(), Some(&Path::new(&path).parent().unwrap()));
        let path = format!("/cg/kubepods.slice/kubepods-pod{}.slice/crio-{ID}.scope/container", uid.replace('-', "_"));
        assert_eq!(levels_up(Path::new(&path)).len(), 3);
        assert_eq!(levels_up(Path::new("/cg/system.slice/nginx.service")).len(), 1);
    }

    #[test]
    fn a_private_namespace_hides_how_deep_we_are() {
        assert_eq!(split_private("/../../burstable/podx/y"), (true, "burstable/podx/y"));
        assert_eq!(split_private("/kubepods/podx/y"), (false, "kubepods/podx/y"));
        assert_eq!(split_private("/"), (false, ""));
    }
}
