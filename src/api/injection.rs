use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gameday::Moment;
use super::{Duration, Fault, OnRestart, says};

/// One fault on one target: an order to a node. Written by the operator only after the run's record names it, in a
/// namespace where nobody else has rights.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "gameday.dev",
    version = "v1alpha1",
    kind = "Injection",
    namespaced,
    category = "gameday-all",
    status = "InjectionStatus",
    selectable = ".spec.node",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Pod", type_ = "string", json_path = ".spec.pod.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Bite", type_ = "string", json_path = ".status.bite"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.why"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.node == oldSelf.node && self.pod == oldSelf.pod && self.run == oldSelf.run && self.hold == oldSelf.hold && self.fault == oldSelf.fault && (self.revert || !oldSelf.revert)",
        says::INJECTION_STAYS
    )
)]
pub struct InjectionSpec {
    pub run: RunRef,
    pub experiment: String,
    pub node: String,
    pub pod: PodRef,
    /// The container's id. Absent where the order came too late for one to be known: then there is nothing to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The container's name, by which the one that takes its place after a restart is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    /// With `Reinject`, `container` is changed after a restart, and the fault is held there for the time that is left.
    #[serde(default, skip_serializing_if = "OnRestart::is_default")]
    pub on_restart: OnRestart,
    pub fault: Fault,
    /// For a network fault: who `to` and `except` are, as addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aim: Option<Aim>,
    /// How long at most, from the moment the node begins. A length: no clock of another machine is trusted.
    pub hold: Duration,
    #[serde(default)]
    pub seed: i64,
    /// End it now. It stays set.
    #[serde(default)]
    pub revert: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// Who is at the other end, as addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Aim {
    pub to: Vec<Peers>,
    #[serde(default)]
    pub except: Vec<Peers>,
}

/// Some of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Peers {
    /// Absent: any address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// Beside them, whatever this name stands for, asked for from within the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<super::Protocol>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_ports: Vec<u16>,
}

/// What the node says of it. A write that had no answer may arrive after a later one: it must not bring back what is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self == oldSelf || !(oldSelf.phase in ['Cleared', 'Lost', 'Refused'])", says::INJECTION_OVER))]
pub struct InjectionStatus {
    #[serde(default)]
    pub phase: InjectionPhase,
    /// Measured proof that it took effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bite: Option<String>,
    /// Read-back proof that nothing is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<String>,
    /// What it does, what it waits for, or why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub began: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub ended: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InjectionPhase {
    #[default]
    Pending,
    Holding,
    /// Ended as ordered, by its length or because revert was set.
    Cleared,
    /// Ended otherwise, before its time.
    Lost,
    /// Never in force.
    Refused,
}

impl InjectionPhase {
    /// Whether nothing of it is in force, now and later.
    pub fn is_over(self) -> bool {
        match self {
            InjectionPhase::Pending | InjectionPhase::Holding => false,
            InjectionPhase::Cleared | InjectionPhase::Lost | InjectionPhase::Refused => true,
        }
    }
}

impl Injection {
    /// Whether its node has said that nothing of it is in force, now and later.
    pub fn is_over(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase.is_over())
    }
}

impl InjectionSpec {
    /// What one experiment of a run holds. A uid has no `/`, so no two are alike.
    pub fn held_for(run_uid: &str, experiment: &str) -> String {
        format!("{run_uid}/{experiment}")
    }

    /// The name of this order: asked for twice, it is one.
    pub fn name(run_uid: &str, experiment: &str, target_uid: &str) -> String {
        let short = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).take(16).collect::<String>().to_lowercase();
        // FNV-1a over all of it; the readable part is for people.
        let whole = [run_uid, experiment, target_uid].join("/");
        let hash =
            whole.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("i-{}-{hash:016x}", short(target_uid))
    }
}
