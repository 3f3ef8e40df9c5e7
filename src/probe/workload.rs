use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::short;
use crate::api::{Duration, Expect, ReadyAtLeast, WorkloadRef};
use crate::engine::steady::{Margin, Sample, Seen};

/// A workload's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    pub asked_for: i32,
    pub ready: i32,
}

/// Reads a workload, in the namespace that the giver of this knows. `None`: it does not exist.
pub type ReadWorkload = Arc<dyn Fn(WorkloadRef) -> BoxFuture<'static, Result<Option<Replicas>, String>> + Send + Sync>;

pub struct Target {
    workload: WorkloadRef,
    read: ReadWorkload,
}

impl Target {
    pub fn new(workload: &WorkloadRef, read: &ReadWorkload) -> Self {
        Target { workload: workload.clone(), read: read.clone() }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.workload)
    }
}

/// What became of reading a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Read(Replicas),
    Absent,
    TimedOut,
    NoAnswer(String),
}

/// Reads the workload once.
pub async fn sample(target: &Target, expect: &Expect, timeout: Duration, started: Timestamp) -> Sample {
    let begin = Instant::now();
    let end = match timeout_at(begin + timeout.as_std(), (target.read)(target.workload.clone())).await {
        Ok(Ok(Some(replicas))) => End::Read(replicas),
        Ok(Ok(None)) => End::Absent,
        Ok(Err(why)) => End::NoAnswer(why),
        Err(_) => End::TimedOut,
    };
    let took_ms = begin.elapsed().as_secs_f64() * 1_000.0;
    let (seen, margin) = judge(&end, &target.workload, expect, timeout);
    Sample { started, took_ms, seen, margin }
}

/// What a workload says, measured against what is expected. Only a workload that was read, or is known not to
/// exist, says anything: an API server that does not answer is not the workload's doing.
pub fn judge(end: &End, workload: &WorkloadRef, expect: &Expect, timeout: Duration) -> (Seen, Option<Margin>) {
    match end {
        End::Read(Replicas { asked_for, ready }) => {
            let needed = needed(*asked_for, expect.ready.as_ref());
            let said = format!("{ready} of {asked_for} ready");
            let seen = if *ready >= needed { Seen::Good(said) } else { Seen::Bad(format!("{said}, {needed} needed")) };
            (seen, Some(Margin { left: f64::from(ready - needed), limit: f64::from(needed), unit: "replicas" }))
        }
        End::Absent => (Seen::Bad(format!("{workload} does not exist")), None),
        End::TimedOut => (Seen::Blind(format!("the API server did not answer within {timeout}")), None),
        End::NoAnswer(why) => (Seen::Blind(short(why)), None),
    }
}

/// The ready replicas that are needed. A percentage is rounded up, unlike a limit: 60 % of 3 is 2.
fn needed(asked_for: i32, at_least: Option<&ReadyAtLeast>) -> i32 {
    match at_least {
        None | Some(ReadyAtLeast { count: None, percent: None }) => asked_for,
        Some(ReadyAtLeast { count: Some(count), percent: _ }) => *count,
        Some(ReadyAtLeast { count: None, percent: Some(percent) }) => {
            let hundredths = i64::from(asked_for) * i64::from(percent.get());
            i32::try_from((hundredths + 99) / 100).unwrap_or(asked_for)
        }
    }
}
