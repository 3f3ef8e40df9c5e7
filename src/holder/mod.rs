//! The process that holds one fault on one target of this machine, `gameday hold`, with Kubernetes or without.
//!
//! A fault lives exactly as long as the process that holds it, because it is made only of what the kernel takes
//! back when that process ends: its children, its memory, its unnamed files, what it traces. No undo is stored
//! anywhere, none is needed. `frame` is the life of every holder; each mechanism has a file of its own.

mod args;
mod cgroup;
mod container_kill;
mod cpu;
mod disk_fill;
mod disk_io;
mod event;
mod fanotify;
mod files;
mod filesystem;
mod frame;
mod leash;
mod mechanism;
mod memory;
pub mod network;
mod node;
mod order;
mod pause;
mod privilege;
mod processes;
mod ptrace;
mod sys;
mod target;
mod worker;

use std::io::Write;

pub use args::HoldArgs;
pub use event::{Bite, Clean, End, Event, Started};
pub use frame::Exit;
pub use leash::LAST_RESORT;
pub use mechanism::{Check, checks};
pub use order::{
    Aim, Bytes, ContainerKill, Cpu, CpuMode, DiskFill, DiskIo, DiskOperation, Fault, FileError, FileOperation, Files, KillSignal,
    Memory, Order, Pause, PauseScope, Processes,
};

pub use target::{first_of, is_in_container};

use frame::Report;
use leash::Orders;

/// The verb `hold`. It must be called in a process with one thread, before any runtime is built.
///
/// # Guarantees
/// When it returns, or the process ends in any other way, nothing of the fault is in force.
pub fn hold(args: &HoldArgs) -> Exit {
    if args.check {
        let lines: Vec<String> = checks().iter().filter_map(|check| serde_json::to_string(check).ok()).collect();
        // Nobody who reads it is nobody to tell.
        let written = writeln!(std::io::stdout(), "{}", lines.join("\n"));
        return if written.is_ok() { Exit::Cleared } else { Exit::NotClean };
    }
    match args.order() {
        Ok(Some(order)) => frame::run(&order, None, &mut Report::default()),
        Ok(None) => hold_as_ordered(),
        Err(why) => not_understood(why),
    }
}

/// [`hold`], by the order on stdin.
pub fn hold_as_ordered() -> Exit {
    match ordered() {
        Ok((order, orders)) => frame::run(&order, Some(orders), &mut Report::default()),
        Err(why) => not_understood(why),
    }
}

fn not_understood(why: String) -> Exit {
    Report::default().say(&Event::Refused { why });
    Exit::NotUnderstood
}

/// The order on stdin.
fn ordered() -> Result<(Order, Orders), String> {
    let mut orders = Orders::on_stdin().map_err(|error| format!("stdin: {error}"))?;
    let line = orders.next().map_err(|error| format!("stdin: {error}"))?;
    let line = line.ok_or("stdin was closed before an order came")?;
    let order = serde_json::from_str(&line).map_err(|error| format!("not an order: {error}"))?;
    Ok((order, orders))
}
