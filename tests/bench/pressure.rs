//! How exact processor pressure is, beside stress-ng in the same cgroup and the same run.
//!
//!     cargo bench --bench pressure      as root; stress-ng is a Debian package

#[path = "../holder/ground.rs"]
#[allow(dead_code, reason = "tests and benchmark share it, and each uses a part")]
mod ground;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gameday::api::Percent;
use gameday::holder::{Cpu, Fault};

use ground::{CPU_LIMIT_CORES, Ground};

const TIMES: usize = 3;
const MEASURED: Duration = Duration::from_secs(5);
/// Until either is under way.
const BEGINS: Duration = Duration::from_secs(1);

fn main() {
    let Some(ground) = ground::ground("bench-cpu") else { return };
    let peer = Command::new("stress-ng").arg("--version").stdout(Stdio::null()).status().is_ok();
    println!("load average: {}", std::fs::read_to_string("/proc/loadavg").unwrap().trim_end());
    println!("Processor time used, in percent of a limit of {CPU_LIMIT_CORES} cores, {TIMES} times {MEASURED:?} each");
    for goal in [20, 50, 80] {
        let ours: Vec<f64> = (0..TIMES).map(|_| by_holder(&ground, goal)).collect();
        println!("asked {goal}: gameday {}", in_line(&ours));
        if peer {
            let theirs: Vec<f64> = (0..TIMES).map(|_| by_stress_ng(&ground, goal)).collect();
            println!("asked {goal}: stress-ng {}", in_line(&theirs));
        }
    }
    if !peer {
        println!("stress-ng is not installed, and was not measured");
    }
}

fn in_line(used: &[f64]) -> String {
    used.iter().map(|used| format!("{used:.2}")).collect::<Vec<_>>().join(", ")
}

fn by_holder(ground: &Ground, goal: i64) -> f64 {
    let percent = Some(Percent::new(goal).unwrap());
    let mut holder = ground.hold(Fault::Cpu(Cpu { percent, ..Cpu::default() }), Duration::from_secs(60));
    holder.started();
    let used = used_percent(ground);
    holder.release();
    holder.end();
    used
}

/// It knows nothing of limits: asked for as much of one core.
fn by_stress_ng(ground: &Ground, goal: i64) -> f64 {
    let load = goal as f64 * CPU_LIMIT_CORES;
    let mut child = ground.inside(&format!("exec stress-ng --quiet --cpu 1 --cpu-load {load:.0}")).spawn().unwrap();
    let used = used_percent(ground);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    used
}

fn used_percent(ground: &Ground) -> f64 {
    std::thread::sleep(BEGINS);
    let (began, before) = (Instant::now(), ground.cpu_seconds());
    std::thread::sleep(MEASURED);
    (ground.cpu_seconds() - before) / began.elapsed().as_secs_f64() / CPU_LIMIT_CORES * 100.0
}
