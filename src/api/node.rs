//! Faults that a process on the target's node holds. The same words in a game day, in an order to a node, and as
//! flags of `gameday hold` and `gameday inject`.

use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bytes, Duration, Percent, says};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// This part of the CPU limit of the container, or of its pod. Without a limit use `cores`.
    #[arg(long, value_parser = percent, conflicts_with = "cores")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// This many cores, 0.5 being half of one: above 0, at most those of the node.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
    /// What the percentage or the cores are of: what is burnt, or what is used in all.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub mode: CpuMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
#[value(rename_all = "camelCase")]
pub enum CpuMode {
    /// Burn this much beside what the target uses: it takes time away from a busy target.
    #[default]
    Add,
    /// Burn what is missing until target and holder together use this much: it takes nothing from a busy target.
    FillUpTo,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Fill until the working set is this part of the memory limit of the container, or of its pod. Without a limit use
    /// `bytes`.
    #[arg(long, value_parser = percent, conflicts_with = "bytes")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// Fill until the working set is this many bytes.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
    /// Reach it in this time, evenly.
    #[arg(long, default_value = "0s")]
    #[serde(default)]
    pub ramp: Duration,
    /// Allow what may end in an OOM kill, in the target as well as here.
    #[arg(long)]
    #[serde(default)]
    pub oom: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskFill {
    /// A directory, as the target sees it, from `/` on.
    #[arg(long)]
    pub path: String,
    /// Fill until the file system is this full, as df counts it.
    #[arg(long, value_parser = percent, conflicts_with = "bytes")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// Fill this many bytes; no more than are free.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
    /// Allow filling the node's own file system so far that it evicts pods: above 85 % the kubelet deletes images, above
    /// 90 % it evicts.
    #[arg(long)]
    #[serde(default)]
    pub evict: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskIo {
    /// A directory on the disk, as the target sees it, from `/` on. Twice 16 MiB for each operation at once must be free.
    #[arg(long)]
    pub path: String,
    /// What is done to the disk.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub operation: DiskOperation,
    /// Bytes of one operation: a multiple of 4096, at most 16 MiB.
    #[arg(long, default_value = "1Mi")]
    #[serde(default = "DiskIo::default_block")]
    pub block: Bytes,
    /// Operations under way at once.
    #[schemars(range(min = 1, max = 64))]
    #[arg(long, default_value_t = 8)]
    #[serde(default = "DiskIo::default_at_once")]
    pub at_once: u16,
    /// At most this many bytes a second, all together. Absent: as fast as the disk goes.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Bytes>,
}

impl DiskIo {
    /// Of a block.
    pub const BLOCK_MAX: u64 = 16 << 20;
    /// Blocks are whole pages.
    pub const PAGE: u64 = 4096;

    /// Whether the disk can be asked for blocks of this length.
    pub fn has_whole_pages(&self) -> bool {
        self.block.get().is_multiple_of(Self::PAGE) && self.block.get() <= Self::BLOCK_MAX
    }

    fn default_block() -> Bytes {
        Bytes::new(1 << 20).expect("a mebibyte is some bytes")
    }

    fn default_at_once() -> u16 {
        8
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DiskOperation {
    #[default]
    Write,
    Read,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Files {
    /// Files at or under this path, as the target sees it, from `/` on.
    #[arg(long)]
    pub path: String,
    /// Which calls.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "open")]
    #[serde(default = "Files::default_operations")]
    pub operations: Vec<FileOperation>,
    /// Let them wait this long, at most 60s.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// Let them fail with this, after the delay if there is one. Before Linux 6.14 only with `EPERM`.
    #[arg(long, value_enum)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<FileError>,
    /// Let reads and writes go on at this many bytes a second, all together, as a slow disk would; what a call asks for
    /// counts, also where there is less to read; a mapping counts whole, no call for longer than 10s. Alone, and with the operation `access`: Linux 6.14.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Bytes>,
    /// This part of them, drawn by the seed.
    #[arg(long, value_parser = percent, default_value = "100")]
    #[serde(default = "Files::default_percent")]
    pub percent: Percent,
}

impl Files {
    /// What is wrong with it, if anything is.
    pub fn problem(&self) -> Option<&'static str> {
        let acts = self.delay.is_some_and(|delay| delay != Duration::ZERO) || self.error.is_some();
        match self.rate {
            None if !acts => Some(says::FILES),
            Some(_) if acts || self.operations != [FileOperation::Access] => Some(says::FILES_RATE),
            None | Some(_) => None,
        }
    }

    fn default_operations() -> Vec<FileOperation> {
        vec![FileOperation::Open]
    }

    fn default_percent() -> Percent {
        Percent::new(100).expect("100 is a percentage")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
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

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Processes {
    /// Fill until this part of the limit is in use.
    #[arg(long, value_parser = percent, conflicts_with = "leave")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// Fill until this many are left. With neither `percent` nor this, none is left.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Absent: a container is paused whole; by hand, a pid alone.
    #[arg(long, value_enum)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<PauseScope>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PauseScope {
    /// Every process in the target's cgroup.
    Cgroup,
    /// The target process, and what it forks meanwhile.
    Process,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerKill {
    /// The signal. It bites when the process has ended; nothing can ignore `KILL`.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub signal: KillSignal,
}

/// Signals that end something. Stopping is a pause, and a pause ends with its holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
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
