//! Processes of this node, as `/proc` shows them.

use std::fs;

/// A process of this container of this pod.
///
/// # Errors
/// There is none, or the container is another pod's.
pub fn of_container(container: &str, pod_uid: &str) -> Result<i32, String> {
    let id = container.rsplit("://").next().unwrap_or(container);
    if id.len() < 12 {
        return Err(format!("{container:?} is not a container's id"));
    }
    // systemd's names have underscores.
    let uids = [pod_uid.to_owned(), pod_uid.replace('-', "_")];
    for pid in pids() {
        // What cannot be read has ended meanwhile.
        let Ok(cgroups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { continue };
        if cgroups.lines().any(|line| line.contains(id)) {
            return if uids.iter().any(|uid| cgroups.contains(uid.as_str())) {
                Ok(pid)
            } else {
                Err(format!("container {id} is not one of pod {pod_uid}"))
            };
        }
    }
    Err(format!("no process of container {id} on this node"))
}

/// Ends every holder that is not this process's own: one that a dead agent left. Says how many.
pub fn end_strangers() -> usize {
    let me = std::process::id();
    let Ok(this) = fs::read_link("/proc/self/exe") else { return 0 };
    let mut ended = 0;
    for pid in pids() {
        let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let mut words = command.split(|byte| *byte == 0);
        let is_holder = words.next().is_some_and(|program| program.ends_with(b"/gameday") || program == b"/proc/self/exe")
            && words.next() == Some(b"hold".as_slice());
        let is_ours = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == this) && parent(pid) == Some(me);
        if is_holder && !is_ours {
            // SAFETY: a signal to a process by number; a number that was given anew meanwhile is the risk of a kill by hand.
            if unsafe { libc::kill(pid, libc::SIGKILL) } == 0 {
                ended += 1;
            }
        }
    }
    ended
}

fn parent(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
