//! Admission: from what was written to what can be run. All problems are found at once, each with its path.
//! After this, nothing is checked twice: a [`Plan`] cannot hold nonsense.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{
    BlastRadius, Duration, Experiment, Fault, FaultKind, GameDaySpec, Gate, OnBreach, OnRestart, Percent, Probe, Schedule,
    Selector, Targets, WorkloadRef, limits, says,
};

use super::held;
use super::permission::Permission;
use super::problem::Problems;
use super::schedule;

/// A game day that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub steady_state: Vec<Probe>,
    pub blast_radius: BlastRadius,
    pub baseline: Duration,
    pub recovery: Duration,
    pub on_breach: OnBreach,
    pub seed: u64,
    pub service_account: String,
    pub experiments: Vec<Planned>,
}

/// One experiment that can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub name: String,
    pub kind: Kind,
    pub candidates: Candidates,
    pub choose: Choice,
    pub hold: Duration,
    pub gate: Option<Gate>,
    /// Indices of the experiments that must be judged first.
    pub after: Vec<usize>,
    pub permissions: Vec<Permission>,
}

/// The fault catalogue: what is done, with nothing missing.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    PodKill {
        grace_period: Option<Duration>,
        every: Option<Duration>,
    },
    PodEvict {
        every: Option<Duration>,
    },
    Scale(ScaleTo),
    Cordon,
    /// By a process on the target's node.
    Hold(Box<Held>),
}

/// A fault that a node holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Orders are named by it.
    pub experiment: String,
    pub fault: Fault,
    pub kind: FaultKind,
    pub container: Option<String>,
    pub on_restart: OnRestart,
    /// Of the run.
    pub seed: u64,
}

impl Kind {
    /// As it is written in a game day.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::PodKill { .. } => "podKill",
            Kind::PodEvict { .. } => "podEvict",
            Kind::Scale(_) => "scale",
            Kind::Cordon => "cordon",
            Kind::Hold(held) => held.kind.name(),
        }
    }

    /// The time between rounds, where it repeats.
    pub fn every(&self) -> Option<Duration> {
        match self {
            Kind::PodKill { every, .. } | Kind::PodEvict { every } => *every,
            Kind::Scale(_) | Kind::Cordon | Kind::Hold(_) => None,
        }
    }

    pub fn held(&self) -> Option<&Held> {
        match self {
            Kind::Hold(held) => Some(held),
            Kind::PodKill { .. } | Kind::PodEvict { .. } | Kind::Scale(_) | Kind::Cordon => None,
        }
    }

    /// Whether its target goes away and something else takes its place.
    pub fn takes_away(&self) -> bool {
        match self {
            Kind::PodKill { .. } | Kind::PodEvict { .. } => true,
            Kind::Scale(_) | Kind::Cordon | Kind::Hold(_) => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleTo {
    Replicas(i32),
    Percent(Percent),
}

/// Who may be hit.
#[derive(Clone, Debug, PartialEq)]
pub enum Candidates {
    Pods(Selector),
    Nodes(Selector),
    Workload(WorkloadRef),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Count(usize),
    Percent(Percent),
}

impl Plan {
    /// Every permission that any experiment needs.
    pub fn permissions(&self) -> BTreeSet<Permission> {
        self.experiments.iter().flat_map(|experiment| experiment.permissions.iter().cloned()).collect()
    }
}

/// What can be run of this spec.
///
/// # Errors
/// Every problem, in the order of the fields.
pub fn admit(spec: &GameDaySpec) -> Result<Plan, Problems> {
    let mut problems = Problems::default();
    if spec.hypothesis.trim().is_empty() {
        problems.add("spec.hypothesis", "a game day tries to disprove something: say in one sentence what should hold");
    }
    if let Some(written) = &spec.schedule {
        admit_schedule(written, &mut problems);
    }
    admit_steady_state(&spec.steady_state, &mut problems);
    if spec.blast_radius.targets < 1 || spec.blast_radius.targets > limits::TARGETS {
        problems.add("spec.blastRadius.targets", format!("at least 1 and at most {}", limits::TARGETS));
    }
    if spec.blast_radius.hold.as_millis() > limits::HOLD_MS {
        problems.add("spec.blastRadius.hold", "at most 24h: longer is not a game day but a change");
    }
    if spec.experiments.is_empty() || spec.experiments.len() > limits::EXPERIMENTS as usize {
        problems.add("spec.experiments", format!("at least 1 and at most {}", limits::EXPERIMENTS));
    }
    if spec.keep < 1 || spec.keep > limits::KEEP {
        problems.add("spec.keep", format!("at least 1 and at most {}", limits::KEEP));
    }
    if spec.seed.is_some_and(|seed| seed < 0) {
        problems.add("spec.seed", "a seed is 0 or more");
    }
    let order = admit_order(&spec.experiments, &mut problems);
    let experiments: Vec<Planned> = spec
        .experiments
        .iter()
        .enumerate()
        .zip(order)
        .filter_map(|((index, experiment), after)| admit_experiment(index, experiment, after, spec, &mut problems))
        .collect();
    if !problems.0.is_empty() {
        return Err(problems);
    }
    Ok(Plan {
        steady_state: spec.steady_state.clone(),
        blast_radius: spec.blast_radius.clone(),
        baseline: spec.baseline,
        recovery: spec.recovery,
        on_breach: spec.on_breach,
        seed: seed(spec),
        service_account: spec.service_account_name.clone(),
        experiments,
    })
}

fn seed(spec: &GameDaySpec) -> u64 {
    spec.seed.and_then(|seed| u64::try_from(seed).ok()).unwrap_or(0)
}

fn admit_schedule(written: &Schedule, problems: &mut Problems) {
    if let Err(why) = schedule::parse_cron(&written.cron) {
        problems.add("spec.schedule.cron", why);
    }
    if let Err(why) = schedule::parse_zone(&written.time_zone) {
        problems.add("spec.schedule.timeZone", why);
    }
    if written.start_within.as_millis() < 1_000 {
        problems.add("spec.schedule.startWithin", "at least 1s, or no start would ever be in time");
    }
}

fn admit_steady_state(probes: &[Probe], problems: &mut Problems) {
    if probes.is_empty() || probes.len() > limits::PROBES as usize {
        problems.add(
            "spec.steadyState",
            format!("at least 1 and at most {} probes: without one nothing can be seen", limits::PROBES),
        );
    }
    let mut names = BTreeMap::new();
    for (index, probe) in probes.iter().enumerate() {
        let path = format!("spec.steadyState[{index}]");
        admit_name(&path, &probe.name, index, &mut names, problems);
        let kinds = [probe.http.is_some(), probe.tcp.is_some(), probe.workload.is_some()];
        if kinds.iter().filter(|set| **set).count() != 1 {
            problems.add(&path, says::ONE_PROBE);
        }
        if let Some(http) = &probe.http
            && !is_http_url(&http.url)
        {
            problems.add(format!("{path}.http.url"), says::URL);
        }
        if let Some(tcp) = &probe.tcp
            && !is_address(&tcp.address)
        {
            problems.add(format!("{path}.tcp.address"), says::ADDRESS);
        }
        if probe.every.as_millis() < limits::EVERY_MIN_MS {
            problems.add(format!("{path}.every"), "at least 100ms: a probe must cost little beside what it watches");
        }
        if probe.timeout == Duration::ZERO {
            problems.add(format!("{path}.timeout"), says::NO_TIMEOUT);
        } else if probe.timeout > probe.every.saturating_mul(10) {
            problems.add(
                format!("{path}.timeout"),
                format!("at most ten times every ({}), which bounds the samples under way", probe.every),
            );
        }
        if !(1..=100).contains(&probe.breach_after) {
            problems.add(format!("{path}.breachAfter"), "at least 1 and at most 100");
        }
        admit_expectation(&path, probe, problems);
    }
}

fn admit_expectation(path: &str, probe: &Probe, problems: &mut Problems) {
    let expect = &probe.expect;
    let mut only = |field: &str, set: bool, fits: bool, kinds: &str| {
        if set && !fits {
            problems.add(format!("{path}.expect.{field}"), format!("only {kinds} can expect that"));
        }
    };
    let (http, tcp, workload) = (probe.http.is_some(), probe.tcp.is_some(), probe.workload.is_some());
    only("status", !expect.status.is_empty(), http, "an http probe");
    only("body", expect.body.is_some(), http, "an http probe");
    only("latency", expect.latency.is_some(), http || tcp, "an http or tcp probe");
    only("ready", expect.ready.is_some(), workload, "a workload probe");
    if let Some(latency) = expect.latency
        && latency > probe.timeout
    {
        problems.add(
            format!("{path}.expect.latency"),
            format!("{latency} is longer than the timeout ({}): it could never be exceeded", probe.timeout),
        );
    }
    if let Some(ready) = &expect.ready
        && ready.count.is_some() == ready.percent.is_some()
    {
        problems.add(format!("{path}.expect.ready"), says::ONE_READY);
    }
}

fn admit_name(path: &str, name: &str, index: usize, names: &mut BTreeMap<String, usize>, problems: &mut Problems) {
    if name.is_empty() || name.len() > 63 {
        problems.add(format!("{path}.name"), "a name has 1 to 63 characters");
    }
    if let Some(first) = names.insert(name.to_owned(), index) {
        problems.add(format!("{path}.name"), format!("{name:?} is already the name of number {first}"));
    }
}

/// The indices that each experiment waits for; problems where a name is unknown or the order has a cycle.
fn admit_order(experiments: &[Experiment], problems: &mut Problems) -> Vec<Vec<usize>> {
    let mut names = BTreeMap::new();
    for (index, experiment) in experiments.iter().enumerate() {
        admit_name(&format!("spec.experiments[{index}]"), &experiment.name, index, &mut names, problems);
    }
    let mut order = Vec::new();
    for (index, experiment) in experiments.iter().enumerate() {
        let Some(after) = &experiment.after else {
            order.push(index.checked_sub(1).into_iter().collect());
            continue;
        };
        let mut waits = Vec::new();
        for (position, name) in after.iter().enumerate() {
            match names.get(name) {
                Some(other) if *other == index => problems.add(format!("spec.experiments[{index}]"), says::AFTER_SELF),
                Some(other) => waits.push(*other),
                None => problems
                    .add(format!("spec.experiments[{index}].after[{position}]"), format!("no experiment is named {name:?}")),
            }
        }
        order.push(waits);
    }
    if let Some(cycle) = find_cycle(&order) {
        let path: Vec<&str> = cycle.iter().map(|index| experiments[*index].name.as_str()).collect();
        problems.add(
            format!("spec.experiments[{}].after", cycle[0]),
            format!("these wait for each other: {}; none could ever start", path.join(" → ")),
        );
    }
    order
}

/// The members of the first cycle, the first repeated at the end.
fn find_cycle(order: &[Vec<usize>]) -> Option<Vec<usize>> {
    fn visit(at: usize, order: &[Vec<usize>], path: &mut Vec<usize>, done: &mut [bool]) -> Option<Vec<usize>> {
        if let Some(start) = path.iter().position(|seen| *seen == at) {
            return Some(path[start..].iter().copied().chain([at]).collect());
        }
        if done[at] {
            return None;
        }
        path.push(at);
        let found = order[at].iter().find_map(|next| visit(*next, order, path, done));
        path.pop();
        done[at] = true;
        found
    }
    let mut done = vec![false; order.len()];
    (0..order.len()).find_map(|start| visit(start, order, &mut Vec::new(), &mut done))
}

fn admit_experiment(
    index: usize,
    experiment: &Experiment,
    after: Vec<usize>,
    spec: &GameDaySpec,
    problems: &mut Problems,
) -> Option<Planned> {
    let path = format!("spec.experiments[{index}]");
    let before = problems.0.len();
    let candidates = admit_targets(&path, &experiment.targets, problems);
    let choose = admit_choice(&path, &experiment.targets, &spec.blast_radius, problems);
    let kind = admit_fault(&path, experiment, seed(spec), problems);
    if let (Some(candidates), Some(kind)) = (&candidates, &kind) {
        let is_workload = matches!(candidates, Candidates::Workload(_));
        let is_nodes = matches!(candidates, Candidates::Nodes(_));
        if matches!(kind, Kind::Scale(_)) != is_workload {
            problems.add(&path, says::WORKLOAD_FAULT);
        }
        if matches!(kind, Kind::Cordon) != is_nodes {
            problems.add(&path, says::NODE_FAULT);
        }
        let is_held = kind.held().is_some();
        let restarts_matter = kind.held().is_some_and(|held| held.kind.lasts());
        if experiment.on_restart == OnRestart::Reinject && !restarts_matter {
            problems.add(format!("{path}.onRestart"), says::NOTHING_TO_REINJECT);
        }
        if is_held && (is_workload || is_nodes) {
            problems.add(&path, says::HELD_FAULT);
        }
        if !is_held && experiment.targets.container.is_some() {
            problems.add(format!("{path}.targets.container"), says::CONTAINER);
        }
    }
    if experiment.hold == Duration::ZERO {
        problems.add(format!("{path}.hold"), says::NO_HOLD);
    } else if experiment.hold > spec.blast_radius.hold {
        problems.add(
            format!("{path}.hold"),
            format!("{} is longer than blastRadius.hold, {}", experiment.hold, spec.blast_radius.hold),
        );
    }
    if let Some(gate) = &experiment.gate
        && !(1_000..=limits::GATE_MS).contains(&gate.within.as_millis())
    {
        problems.add(format!("{path}.gate.within"), says::GATE);
    }
    if problems.0.len() > before {
        return None;
    }
    Some(Planned {
        name: experiment.name.clone(),
        kind: kind?,
        candidates: candidates?,
        choose: choose?,
        hold: experiment.hold,
        gate: experiment.gate.clone(),
        after,
        permissions: Permission::of(&experiment.fault, &experiment.targets),
    })
}

fn admit_targets(path: &str, targets: &Targets, problems: &mut Problems) -> Option<Candidates> {
    let mut select = |field: &str, selector: &Selector| {
        if selector.is_empty() {
            problems.add(format!("{path}.targets"), says::EVERYTHING);
        }
        let many = selector.match_expressions.iter().any(|expression| expression.values.len() > limits::SELECTOR_TERMS as usize);
        if selector.match_labels.len() + selector.match_expressions.len() > limits::SELECTOR_TERMS as usize || many {
            problems.add(
                format!("{path}.targets.{field}"),
                format!("at most {} labels, expressions or values", limits::SELECTOR_TERMS),
            );
        }
        selector.clone()
    };
    match targets {
        Targets { pods: Some(pods), nodes: None, workload: None, choose: _, container: _ } => {
            Some(Candidates::Pods(select("pods", pods)))
        }
        Targets { pods: None, nodes: Some(nodes), workload: None, choose: _, container: _ } => {
            Some(Candidates::Nodes(select("nodes", nodes)))
        }
        Targets { pods: None, nodes: None, workload: Some(workload), choose: _, container: _ } => {
            Some(Candidates::Workload(workload.clone()))
        }
        Targets { .. } => {
            problems.add(format!("{path}.targets"), says::ONE_TARGET);
            None
        }
    }
}

fn admit_choice(path: &str, targets: &Targets, blast_radius: &BlastRadius, problems: &mut Problems) -> Option<Choice> {
    let Some(choose) = &targets.choose else { return Some(Choice::Count(1)) };
    match (choose.count, choose.percent) {
        (Some(0), None) => problems.add(format!("{path}.targets.choose"), says::NOBODY),
        (Some(count), None) if count > blast_radius.targets => problems.add(
            format!("{path}.targets.choose.count"),
            format!("{count} is more than blastRadius.targets, {}", blast_radius.targets),
        ),
        (Some(count), None) => match usize::try_from(count) {
            Ok(count) => return Some(Choice::Count(count)),
            Err(_) => problems.add(format!("{path}.targets.choose.count"), "at least 1"),
        },
        (None, Some(percent)) => return Some(Choice::Percent(percent)),
        (None, None) | (Some(_), Some(_)) => problems.add(format!("{path}.targets.choose"), says::ONE_CHOICE),
    }
    None
}

fn admit_fault(path: &str, experiment: &Experiment, seed: u64, problems: &mut Problems) -> Option<Kind> {
    let fault = &experiment.fault;
    let kinds = fault.kinds();
    let [kind] = kinds.as_slice() else {
        problems.add(format!("{path}.fault"), says::ONE_FAULT);
        return None;
    };
    let mut rounds = |kind: &str, every: Option<Duration>| {
        if every.is_some_and(|every| every.as_millis() < limits::ROUND_MIN_MS) {
            problems.add(format!("{path}.fault.{kind}.every"), "at least 1s");
        }
        every
    };
    if let Some(kill) = &fault.pod_kill {
        return Some(Kind::PodKill { grace_period: kill.grace_period, every: rounds("podKill", kill.every) });
    }
    if let Some(evict) = &fault.pod_evict {
        return Some(Kind::PodEvict { every: rounds("podEvict", evict.every) });
    }
    if fault.cordon.is_some() {
        return Some(Kind::Cordon);
    }
    if let Some(scale) = &fault.scale {
        match (scale.replicas, scale.percent) {
            (Some(replicas), None) if replicas >= 0 => return Some(Kind::Scale(ScaleTo::Replicas(replicas))),
            (None, Some(percent)) => return Some(Kind::Scale(ScaleTo::Percent(percent))),
            (Some(_), None) => problems.add(format!("{path}.fault.scale.replicas"), "0 or more"),
            (None, None) | (Some(_), Some(_)) => problems.add(format!("{path}.fault.scale"), says::ONE_SCALE),
        }
        return None;
    }
    held::admit(&format!("{path}.fault.{kind}"), fault, problems);
    let Experiment { name, targets, on_restart, .. } = experiment;
    Some(Kind::Hold(Box::new(Held {
        experiment: name.clone(),
        fault: fault.clone(),
        kind: *kind,
        container: targets.container.clone(),
        on_restart: *on_restart,
        seed,
    })))
}

fn is_http_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
}

/// `host:port`, the host a name, an IPv4 address, or an IPv6 address in brackets.
fn is_address(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', '[', ']', ' ']),
    };
    host && port.parse::<u16>().is_ok_and(|port| port > 0)
}
