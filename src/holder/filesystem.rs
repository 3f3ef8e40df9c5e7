//! What lies under a directory of the target: how full it is, and whether the node itself lives on it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FsWord, fstat, fstatfs, fstatvfs};

const TMPFS: FsWord = 0x0102_1994;
const OVERLAY: FsWord = 0x794c_7630;

/// Where a node keeps what it cannot do without: filling one of these evicts pods.
const OF_THE_NODE: [&str; 6] =
    ["/", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/log"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory, charged to the cgroup that fills it.
    Tmpfs,
    /// The node's own: containers' root file systems, emptyDirs, logs.
    Node,
    /// A volume of its own.
    Volume,
}

/// Bytes, as df counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub used: u64,
    /// For those who are not root: what is kept in reserve is neither used nor available.
    pub available: u64,
}

impl Space {
    pub fn of(file: &impl std::os::fd::AsFd) -> io::Result<Self> {
        let status = fstatvfs(file)?;
        Ok(Space {
            used: status.f_blocks.saturating_sub(status.f_bfree).saturating_mul(status.f_frsize),
            available: status.f_bavail.saturating_mul(status.f_frsize),
        })
    }

    pub fn whole(self) -> u64 {
        self.used + self.available
    }

    pub fn percent(self) -> f64 {
        self.used as f64 * 100.0 / (self.whole() as f64).max(1.0)
    }

    /// What must be added until it is this full; nothing where it is already.
    pub fn until(self, percent: u8) -> u64 {
        (self.whole() / 100 * u64::from(percent)).saturating_sub(self.used)
    }
}

/// # Errors
/// The kernel's, or a mount table that cannot be read: what is not known is not filled.
pub fn kind(directory: &OwnedFd) -> io::Result<Kind> {
    match fstatfs(directory)?.f_type {
        TMPFS => return Ok(Kind::Tmpfs),
        OVERLAY => return Ok(Kind::Node),
        _ => {}
    }
    let device = fstat(directory)?.st_dev;
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = std::fs::read_to_string("/proc/1/mountinfo")?;
    Ok(if is_of_the_node(&device, &mounts) { Kind::Node } else { Kind::Volume })
}

/// A device on which one of the node's directories lies, or which the node does not know under this number.
fn is_of_the_node(device: &str, mounts: &str) -> bool {
    let mounts: Vec<(&str, &Path)> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            let (device, _root, point) = (fields.next()?, fields.next()?, fields.next()?);
            Some((device, Path::new(point)))
        })
        .collect();
    let under = |directory: &&str| {
        let over = mounts.iter().filter(|(_, point)| Path::new(directory).starts_with(point));
        // Of two mounts at one point the later one is on top.
        over.enumerate().max_by_key(|(index, (_, point))| (point.components().count(), *index)).map(|(_, (device, _))| *device)
    };
    OF_THE_NODE.iter().filter_map(under).any(|found| found == device) || !mounts.iter().any(|(found, _)| *found == device)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /var/lib rw - ext4 /dev/sda2 rw\n\
        3 1 8:3 / /var/lib/kubelet/pods/x/volumes/kubernetes.io~csi/y/mount rw - ext4 /dev/sdb rw\n4 1 8:4 / /mnt rw - ext4 /dev/sdc rw\n";

    #[test]
    fn a_volume_is_not_the_node() {
        let found = ["8:1", "8:2", "8:3", "8:4", "0:77"].map(|device| is_of_the_node(device, MOUNTS));
        assert_eq!(found, [true, true, false, false, true]);
    }

    #[test]
    fn full_is_counted_as_df_counts_it() {
        let space = Space { used: 300, available: 600 };
        assert_eq!((space.until(90), space.until(10), space.percent().round()), (510, 0, 33.0));
    }
}
