//! What a holder is told to do, as data: one JSON line, or flags.

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::api::Duration;
pub use crate::api::{
    Bytes, ContainerKill, Cpu, CpuMode, DiskFill, DiskIo, DiskOperation, FileError, FileOperation, Files, KillSignal, Memory,
    Pause, PauseScope, Processes,
};

use super::network::NetworkOrder;

/// One fault on one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    pub target: Aim,
    pub fault: Fault,
    /// How long at most, from the moment the holder has read this.
    pub hold: Duration,
    /// For every choice by chance.
    #[serde(default)]
    pub seed: u64,
    /// The pid of who gives the order. A holder with another parent has lost it, and refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<i32>,
}

/// Whom it hits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Aim {
    /// A container's id, with or without `containerd://` before it.
    Container(String),
    /// A process of a container that the one who gives the order has found.
    Process {
        container: String,
        pid: i32,
    },
    Pid(i32),
}

/// What is done to it, every parameter resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// Burn processor time in the target's cgroup.
    Cpu(Cpu),
    /// Fill the target's memory, giving way when it grows itself.
    Memory(Memory),
    /// Fill the file system under a path of the target.
    DiskFill(DiskFill),
    /// Compete for the disk under a path of the target.
    DiskIo(DiskIo),
    /// Delay or fail opening and reading files under a path of the target.
    Files(Files),
    /// Use up the target's process limit.
    Processes(Processes),
    /// Stop every thread of the target.
    Pause(Pause),
    /// Send the target's first process a signal, once.
    ContainerKill(ContainerKill),
    /// Disturb packets between the target and others.
    Network(NetworkOrder),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_one_line_and_reads_back() {
        let text = r#"{"target":{"pid":7},"fault":{"cpu":{"percent":50,"mode":"FillUpTo"}},"hold":"30s","seed":3}"#;
        let order: Order = serde_json::from_str(text).unwrap();
        assert_eq!(order.target, Aim::Pid(7));
        assert_eq!(serde_json::to_string(&order).unwrap(), text);
    }

    #[test]
    fn a_word_nobody_knows_is_refused() {
        let text = r#"{"target":{"pid":7},"fault":{"cpu":{"percent":50}},"hodl":"30s"}"#;
        assert!(serde_json::from_str::<Order>(text).unwrap_err().to_string().contains("hodl"));
    }
}
