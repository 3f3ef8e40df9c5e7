//! The node's own file systems, which a container sees through the processes of its node.

/// What runs outside containers on every node, or is one of these.
const PROCESSES: [&str; 4] = ["kubelet", "containerd", "crio", "systemd"];

/// What to put in front of a path: nothing, for what is visible here, then the root of each process of the node.
pub fn roots() -> impl Iterator<Item = String> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_node = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        *pid == 1 || PROCESSES.contains(&name.trim())
    };
    std::iter::once(String::new()).chain(pids.filter(of_node).map(|pid| format!("/proc/{pid}/root")))
}
