//! What a holder is told to do, as data: one JSON line, or flags.

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::api::{Duration, Percent};

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
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cpu {
    /// Of the limit of the container, or of its pod.
    #[arg(long, value_parser = percent, conflicts_with = "cores")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// This many cores, 0.5 being half of one.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub mode: CpuMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
#[value(rename_all = "camelCase")]
pub enum CpuMode {
    /// Burn this much beside what the target uses: it takes time away from a busy target.
    #[default]
    Add,
    /// Burn what is missing until target and holder together use this much: it takes nothing from a busy target.
    FillUpTo,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Memory {
    /// Fill until the working set is this part of the limit of the container, or of its pod.
    #[arg(long, value_parser = percent, conflicts_with = "bytes")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// Fill until the working set is this large.
    #[arg(long, value_parser = bytes)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Reach it in this time, evenly.
    #[arg(long, default_value = "0s")]
    #[serde(default)]
    pub ramp: Duration,
    /// Allow what may end in an OOM kill, in the target as well as here.
    #[arg(long)]
    #[serde(default)]
    pub oom: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskFill {
    /// A directory, as the target sees it.
    #[arg(long)]
    pub path: String,
    /// Until the file system is this full, as df counts it.
    #[arg(long, value_parser = percent, conflicts_with = "bytes")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// This many bytes.
    #[arg(long, value_parser = bytes)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Allow filling the node's own file system so far that it evicts pods.
    #[arg(long)]
    #[serde(default)]
    pub evict: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskIo {
    /// A directory on the disk, as the target sees it.
    #[arg(long)]
    pub path: String,
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub operation: DiskOperation,
    /// Bytes of one operation, a multiple of 4096.
    #[arg(long, value_parser = bytes, default_value = "1Mi")]
    #[serde(default = "DiskIo::default_block")]
    pub block: u64,
    /// Operations under way at once.
    #[arg(long, default_value_t = 8)]
    #[serde(default = "DiskIo::default_at_once")]
    pub at_once: u16,
    /// At most this many bytes a second, all together. Absent: as fast as the disk goes.
    #[arg(long, value_parser = bytes)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

impl DiskIo {
    fn default_block() -> u64 {
        1 << 20
    }

    fn default_at_once() -> u16 {
        8
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum DiskOperation {
    #[default]
    Write,
    Read,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Files {
    /// Files at or under this path, as the target sees it.
    #[arg(long)]
    pub path: String,
    /// Which calls.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "open")]
    #[serde(default = "Files::default_operations")]
    pub operations: Vec<FileOperation>,
    /// Let them wait this long.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// Let them fail with this, after the delay if there is one.
    #[arg(long, value_enum)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FileError>,
    /// This part of them.
    #[arg(long, value_parser = percent, default_value = "100")]
    #[serde(default = "Files::default_percent")]
    pub percent: Percent,
}

impl Files {
    fn default_operations() -> Vec<FileOperation> {
        vec![FileOperation::Open]
    }

    fn default_percent() -> Percent {
        Percent::new(100).expect("100 is a percentage")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum FileOperation {
    /// Opening, creating and executing.
    Open,
    /// Reading, from files opened after the start.
    Read,
    /// Reading, writing, mapping and truncating, before the file is touched: Linux 6.14, and not on every file system.
    Access,
}

/// Errors the kernel lets such a fault choose: these and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub enum FileError {
    Eperm,
    Eio,
    Ebusy,
    Etxtbsy,
    Eagain,
    Enospc,
    Edquot,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Processes {
    /// Until this part of the limit is in use.
    #[arg(long, value_parser = percent, conflicts_with = "leave")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// Until this many are left. With neither, none is left.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pause {
    /// Absent: a container is paused whole, a pid alone.
    #[arg(long, value_enum)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<PauseScope>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum PauseScope {
    /// Every process in the target's cgroup.
    Cgroup,
    /// The target process, and what it forks meanwhile.
    Process,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerKill {
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub signal: KillSignal,
}

/// Signals that end something. Stopping is a pause, and a pause ends with its holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub enum KillSignal {
    #[default]
    Kill,
    Term,
    Int,
    Quit,
    Hup,
    Abrt,
}

fn percent(text: &str) -> Result<Percent, String> {
    let number = text.parse::<i64>().map_err(|_| format!("{text:?} is not a whole number"))?;
    Percent::new(number).map_err(str::to_owned)
}

/// `4096`, `64Ki`, `256Mi`, `2Gi`.
fn bytes(text: &str) -> Result<u64, String> {
    let not = || format!("{text:?} is not a number of bytes: 4096, 64Ki, 256Mi and 2Gi are");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor: u64 = match &text[digits..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(not()),
    };
    text[..digits].parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(not)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_one_line_and_reads_back() {
        let text = r#"{"target":{"pid":7},"fault":{"cpu":{"percent":50,"mode":"fillUpTo"}},"hold":"30s","seed":3}"#;
        let order: Order = serde_json::from_str(text).unwrap();
        assert_eq!(order.target, Aim::Pid(7));
        assert_eq!(serde_json::to_string(&order).unwrap(), text);
    }

    #[test]
    fn a_word_nobody_knows_is_refused() {
        let text = r#"{"target":{"pid":7},"fault":{"cpu":{"percnt":50}},"hold":"30s"}"#;
        assert!(serde_json::from_str::<Order>(text).unwrap_err().to_string().contains("percnt"));
    }

    #[test]
    fn bytes_are_read_as_kubernetes_writes_them() {
        assert_eq!(["7", "64Ki", "2Gi"].map(|text| bytes(text).unwrap()), [7, 65_536, 2_147_483_648]);
        for text in ["", "Mi", "1.5Gi", "5MB", "99999999999999999999", "17179869184Gi"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
