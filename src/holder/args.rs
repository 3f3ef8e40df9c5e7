//! `gameday hold`, by hand or by the agent.

use clap::Args;

use crate::api::Duration;

use super::order::{Aim, Fault, Order};

/// Hold one fault on one process or container of this machine, for as long as this command runs.
///
/// Without a fault, the order is one line of JSON on stdin, and closing stdin ends it. It reports on stdout, a
/// JSON line each second. The fault is over when this process is, whatever ends it, and this process is over when
/// its parent is.
///
/// Exit codes of hold: 0 cleared and read back clean; 1 not clean; 2 not understood; 3 lost before its time, and
/// clean; 4 refused, nothing was done.
#[derive(Clone, Debug, Args)]
pub struct HoldArgs {
    #[command(subcommand)]
    pub fault: Option<Fault>,
    /// The process to hit.
    #[arg(long, global = true, conflicts_with = "container")]
    pub pid: Option<i32>,
    /// The container to hit, by its id.
    #[arg(long, global = true)]
    pub container: Option<String>,
    /// How long at most.
    #[arg(long = "for", global = true, value_name = "LENGTH", default_value = "30s")]
    pub length: Duration,
    /// For every choice by chance.
    #[arg(long, global = true, default_value_t = 0)]
    pub seed: u64,
    /// Say what this machine and these capabilities can do, a JSON line each, and do nothing.
    #[arg(long)]
    pub check: bool,
}

impl HoldArgs {
    /// The order in these flags, `None` when it is to come on stdin.
    ///
    /// # Errors
    /// A fault without a target.
    pub fn order(&self) -> Result<Option<Order>, String> {
        let Some(fault) = self.fault.clone() else { return Ok(None) };
        let target = match (self.pid, &self.container) {
            (Some(pid), None) => Aim::Pid(pid),
            (None, Some(id)) => Aim::Container(id.clone()),
            (None, None) | (Some(_), Some(_)) => return Err("whom? give --pid or --container".into()),
        };
        Ok(Some(Order { target, fault, hold: self.length, seed: self.seed, parent: None }))
    }
}
