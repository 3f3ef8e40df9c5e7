use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::connect::Host;
use super::{NoAnswer, margin, shown, too_slow};
use crate::api::{Duration, Expect, says};
use crate::engine::steady::{Margin, Sample, Seen};

#[derive(Debug)]
pub struct Target {
    host: Host,
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Connected,
    TimedOut,
    NoAnswer(NoAnswer),
}

impl Target {
    /// # Errors
    /// It is not `host:port`.
    pub fn new(address: &str) -> Result<Self, String> {
        let (host, port) = address.rsplit_once(':').ok_or(says::ADDRESS)?;
        let port = port.parse().map_err(|_| says::ADDRESS)?;
        Ok(Target { host: Host::new(host, port) })
    }
}

/// Opens a connection and closes it again.
pub async fn sample(target: &Target, expect: &Expect, timeout: Duration, started: Timestamp) -> Sample {
    let begin = Instant::now();
    let connect = async { target.host.connect(&target.host.look_up().await?).await };
    let end = match timeout_at(begin + timeout.as_std(), connect).await {
        Ok(Ok(_closed_by_leaving)) => End::Connected,
        Ok(Err(why)) => End::NoAnswer(why),
        Err(_) => End::TimedOut,
    };
    let took_ms = begin.elapsed().as_secs_f64() * 1_000.0;
    let (seen, margin) = judge(&end, expect, timeout, took_ms);
    Sample { started, took_ms, seen, margin }
}

/// What a connection says, measured against what is expected.
pub fn judge(end: &End, expect: &Expect, timeout: Duration, took_ms: f64) -> (Seen, Option<Margin>) {
    match end {
        End::Connected => {
            let seen = match too_slow(expect.latency, took_ms) {
                Some(too_slow) => Seen::Bad(format!("connected in {too_slow}")),
                None => Seen::Good(format!("connected in {} ms", shown(took_ms))),
            };
            (seen, margin(expect.latency, took_ms))
        }
        End::TimedOut => (Seen::Bad(format!("no connection within {timeout}")), margin(expect.latency, took_ms)),
        End::NoAnswer(NoAnswer::Theirs(why)) => (Seen::Bad(why.clone()), None),
        End::NoAnswer(NoAnswer::Ours(why)) => (Seen::Blind(why.clone()), None),
    }
}
