//! Faults that a node holds: what of them can be run as written, and what is ordered from whom.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::api::{Duration, Fault, FaultKind, Files, InjectionPhase, InjectionSpec, Network, OnRestart, TargetStatus, says};

use super::admit::{Held, Plan};
use super::fault::{Bite, Candidate};
use super::problem::Problems;
use super::select;
use super::{AgentSeen, InjectionSeen, Observation, limits};

/// The holder refuses a shorter length; a late order is still one that ends by itself.
const HOLD_MIN: Duration = Duration::from_millis(1_000);

/// An order to the target's node.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Of the Injection.
    pub name: String,
    pub node: String,
    /// The container's name and id.
    pub container: Option<(String, String)>,
    pub on_restart: OnRestart,
    pub fault: Fault,
    pub hold: Duration,
    /// For what is left to chance on the node, such as which connections are hit. At most 53 bits: it is written as JSON.
    pub seed: u64,
}

/// What cannot be run as written.
pub fn admit(path: &str, fault: &Fault, problems: &mut Problems) {
    let mut one_of = |words: &str, first: bool, second: bool| {
        if first == second {
            problems.add(path, format!("exactly one of {words}"));
        }
    };
    if let Some(cpu) = &fault.cpu {
        one_of("percent, cores", cpu.percent.is_some(), cpu.cores.is_some());
    }
    if let Some(memory) = &fault.memory {
        one_of("percent, bytes", memory.percent.is_some(), memory.bytes.is_some());
    }
    if let Some(fill) = &fault.disk_fill {
        one_of("percent, bytes", fill.percent.is_some(), fill.bytes.is_some());
    }
    if let Some(io) = &fault.disk_io
        && !io.has_whole_pages()
    {
        problems.add(format!("{path}.block"), says::BLOCK);
    }
    if let Some(why) = fault.files.as_ref().and_then(Files::problem) {
        problems.add(path, why);
    }
    let paths = [
        fault.disk_fill.as_ref().map(|fill| &fill.path),
        fault.disk_io.as_ref().map(|io| &io.path),
        fault.files.as_ref().map(|files| &files.path),
    ];
    if let Some(file) = paths.into_iter().flatten().next()
        && !file.starts_with('/')
    {
        problems.add(format!("{path}.path"), "a path in the container, from / on");
    }
    if let Some(network) = &fault.network {
        admit_network(path, network, problems);
    }
}

fn admit_network(path: &str, network: &Network, problems: &mut Problems) {
    let shapes = network.delay.is_some()
        || network.loss.is_some()
        || network.duplicate.is_some()
        || network.corrupt.is_some()
        || network.rate.is_some();
    if shapes == network.partition.unwrap_or(false) {
        problems.add(path, says::ONE_NETWORK);
    }
    let needs = [
        ((network.jitter.is_some() || network.reorder.is_some()) && network.delay.is_none(), says::NEEDS_DELAY),
        ((network.distribution.is_some() || network.correlation.is_some()) && network.jitter.is_none(), says::NEEDS_JITTER),
        (network.burst.is_some() && network.loss.is_none(), says::NEEDS_LOSS),
        (network.undetected.is_some() && network.corrupt.is_none(), says::NEEDS_CORRUPT),
    ];
    for (_, why) in needs.into_iter().filter(|(wrong, _)| *wrong) {
        problems.add(path, why);
    }
    for (list, peers) in [("to", &network.to), ("except", &network.except)] {
        for (index, peer) in peers.iter().flatten().enumerate() {
            let named = [peer.cidr.is_some(), peer.pods.is_some(), peer.service.is_some(), peer.dns.is_some()];
            if named.iter().filter(|is| **is).count() > 1 {
                problems.add(format!("{path}.{list}[{index}]"), says::ONE_PEER);
            }
            if peer.pods.as_ref().is_some_and(|pods| pods.is_empty()) {
                problems.add(format!("{path}.{list}[{index}].pods"), says::EVERYTHING);
            }
        }
    }
}

/// The order for a recorded target; `None` while its pod is not seen.
pub fn order(held: &Held, target: &TargetStatus, run_uid: &str, seen: &Observation, now: Timestamp) -> Option<Order> {
    let pod = seen.pods.iter().find(|pod| pod.uid == target.uid)?;
    let left = Duration::between(now, target.latest_end).max(HOLD_MIN);
    let container = container(held, &pod.containers).cloned();
    Some(Order { container, hold: left, ..revocation(held, target, run_uid) })
}

/// The order to end it, which is enough to refuse one that has not arrived yet.
pub fn revocation(held: &Held, target: &TargetStatus, run_uid: &str) -> Order {
    Order {
        name: InjectionSpec::name(run_uid, &held.experiment, &target.uid),
        node: target.node.clone().unwrap_or_default(),
        container: None,
        on_restart: held.on_restart,
        fault: held.fault.clone(),
        hold: HOLD_MIN,
        seed: select::lot(held.seed, &held.experiment, 0, &target.name) >> 11,
    }
}

fn container<'a>(held: &Held, containers: &'a [(String, String)]) -> Option<&'a (String, String)> {
    match &held.container {
        Some(name) => containers.iter().find(|(known, _)| known == name),
        None => containers.first(),
    }
}

/// What an order still lacks before anything is touched.
pub enum Lacks {
    Nothing,
    /// Agents that must answer first.
    Agents(String),
    /// It can never be.
    Cannot(String),
}

/// The nodes of these targets, with the faults that each must be able to hold: all of the run's, because an agent is not
/// replaced by one with more capabilities while it holds something.
pub fn nodes(plan: &Plan, victims: &[Candidate]) -> BTreeMap<String, BTreeSet<FaultKind>> {
    let kinds = kinds(plan);
    victims.iter().filter_map(|victim| Some((victim.node.clone()?, kinds.clone()))).collect()
}

fn kinds(plan: &Plan) -> BTreeSet<FaultKind> {
    plan.experiments.iter().filter_map(|planned| Some(planned.kind.held()?.kind)).collect()
}

pub fn lacks(plan: &Plan, held: &Held, victims: &[Candidate], seen: &Observation) -> Lacks {
    let kinds = kinds(plan);
    for victim in victims {
        let who = &victim.target;
        let Some(pod) = seen.pods.iter().find(|pod| pod.uid == who.uid) else { continue };
        if container(held, &pod.containers).is_none() {
            let name = held.container.as_deref().unwrap_or("any");
            return Lacks::Cannot(format!("{who} has no running container {name}"));
        }
        if held.fault.network.is_some() && pod.host_network {
            return Lacks::Cannot(format!("{who} uses its node's own network: every pod of the node would be hit"));
        }
        if held.fault.network.is_some() && seen.networks.contains(&who.uid) {
            return Lacks::Cannot(format!("another network fault is in force on {who}; there is one at a time"));
        }
        let node = victim.node.as_deref().unwrap_or_default();
        match seen.agents.get(node) {
            // One that is not made for all of the run is about to be replaced.
            Some(AgentSeen::Ready { faults, .. }) if !faults.is_superset(&kinds) => {
                return Lacks::Agents(format!("the agent on node {node} was not made for all of the run's faults"));
            }
            Some(AgentSeen::Ready { faults: _, cannot }) => {
                let parts = held.fault.parts();
                let mut what = std::iter::once(held.kind.name()).chain(parts.iter().map(|part| part.name()));
                if let Some((what, why)) = what.find_map(|what| Some((what, cannot.get(what)?))) {
                    return Lacks::Cannot(format!("node {node} cannot hold {what}: {why}"));
                }
            }
            Some(AgentSeen::Starting(why)) => return Lacks::Agents(format!("the agent on node {node}: {why}")),
            Some(AgentSeen::Cannot(why)) => return Lacks::Cannot(format!("no agent on node {node}: {why}")),
            None => return Lacks::Agents(format!("no agent on node {node} yet")),
        }
    }
    Lacks::Nothing
}

fn injection<'a>(held: &Held, target: &TargetStatus, run_uid: &str, seen: &'a Observation) -> Option<&'a InjectionSeen> {
    seen.injections.get(&InjectionSpec::name(run_uid, &held.experiment, &target.uid))
}

pub fn bite(held: &Held, target: &TargetStatus, run_uid: &str, seen: &Observation) -> Bite {
    let Some(injection) = injection(held, target, run_uid, seen) else {
        return if target.bite.is_some() && seen.synced {
            Bite::Lost("its order was deleted".to_owned())
        } else {
            Bite::NotYet("not bitten yet: the order is not seen".to_owned())
        };
    };
    let why = injection.why.clone().unwrap_or_else(|| "no reason given".to_owned());
    match injection.phase {
        InjectionPhase::Pending => Bite::NotYet(format!("not bitten yet: {}", injection.why.as_deref().unwrap_or("ordered"))),
        InjectionPhase::Holding | InjectionPhase::Cleared => match &injection.bite {
            Some(bite) => Bite::Yes(bite.clone()),
            None => Bite::NotYet(format!("in force, and not bitten yet: {why}")),
        },
        InjectionPhase::Lost => Bite::Lost(why),
        InjectionPhase::Refused => Bite::Refused(why),
    }
}

/// Why a fault is not in force any more though its time is not over: its order has ended as one that was told to, and this
/// run's record does not say so.
pub fn ended_early(held: &Held, target: &TargetStatus, run_uid: &str, seen: &Observation, now: Timestamp) -> Option<String> {
    let injection = injection(held, target, run_uid, seen)?;
    let is_early = now + limits::RETRY.as_signed() < target.latest_end;
    (held.kind.lasts() && is_early && injection.phase == InjectionPhase::Cleared)
        .then(|| format!("it ended before its time: {}", injection.why.as_deref().unwrap_or("no reason given")))
}

/// Only the node can say so.
pub fn clean(held: &Held, target: &TargetStatus, run_uid: &str, seen: &Observation) -> Option<String> {
    let injection = injection(held, target, run_uid, seen)?;
    match injection.phase {
        InjectionPhase::Pending | InjectionPhase::Holding => None,
        InjectionPhase::Cleared | InjectionPhase::Lost => injection.clean.clone(),
        InjectionPhase::Refused => {
            Some(format!("nothing was done: {}", injection.why.as_deref().unwrap_or("the node refused it")))
        }
    }
}
