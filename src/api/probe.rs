use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Percent, WorkloadRef, limits, says};

/// One thing that must stay true, asked again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.http), has(self.tcp), has(self.workload)].filter(x, x).size() == 1", says::ONE_PROBE))]
#[x_kube(validation = ("self.timeout.matches('[1-9]')", says::NO_TIMEOUT))]
pub struct Probe {
    /// Its name in the record and the report.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// The ready replicas of a workload in the game day's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadProbe>,
    /// A sample starts this often, whatever the previous one does. At least 100ms.
    #[serde(default = "every_default")]
    pub every: Duration,
    /// A sample without an answer after this long is bad. At most ten times `every`, which bounds the samples
    /// under way at once.
    #[serde(default = "timeout_default")]
    pub timeout: Duration,
    /// What a good sample looks like.
    #[serde(default)]
    pub expect: Expect,
    /// So many bad samples one after the other are a breach. The default, 3, forgives one lost packet but not
    /// three.
    #[serde(default = "breach_after_default")]
    #[schemars(range(min = 1, max = 100))]
    pub breach_after: i32,
}

fn every_default() -> Duration {
    Duration::from_secs(1)
}

fn timeout_default() -> Duration {
    Duration::from_millis(500)
}

fn breach_after_default() -> i32 {
    3
}

/// A GET on a fresh connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpProbe {
    /// Asked as written, from the operator's pod.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = ("isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''", says::URL))]
    pub url: String,
}

/// A connection that is opened and closed again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpProbe {
    /// Host and port, like `postgres.shop.svc:5432`.
    #[schemars(length(max = 300))]
    #[x_kube(validation = (r"self.matches('^(\\[[0-9a-fA-F:.]+\\]|[^:/\\[\\] ]+):[0-9]{1,5}$')", says::ADDRESS))]
    pub address: String,
}

/// The ready replicas of a workload in the game day's namespace.
pub type WorkloadProbe = WorkloadRef;

/// What a good sample looks like. What is absent is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expect {
    /// http: one of these statuses. Empty: 200 to 399.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::PROBES), inner(range(min = 100, max = 599)))]
    pub status: Vec<i32>,
    /// http, tcp: the whole answer within this time (tcp: connected).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Duration>,
    /// http: the body contains this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub body: Option<String>,
    /// workload: at least so many replicas are ready. Absent: all that are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<ReadyAtLeast>,
}

/// At least so many ready replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.count) != has(self.percent)", says::ONE_READY))]
pub struct ReadyAtLeast {
    /// So many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub count: Option<i32>,
    /// Of the replicas asked for; what is needed is rounded **up**: 60 % of 3 is 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
}

impl Probe {
    /// How long a probe may say nothing, or only bad things, before that is a breach: `every × breachAfter +
    /// timeout`.
    pub fn patience(&self) -> Duration {
        self.every.saturating_mul(self.breach_after_count()).saturating_add(self.timeout)
    }

    pub fn breach_after_count(&self) -> u32 {
        u32::try_from(self.breach_after).unwrap_or(1).max(1)
    }
}
