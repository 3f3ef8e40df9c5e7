//! The witness: checks the promises against the model at every call, by counts of its own. It never asks the
//! engine what is in force.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use crate::api::{Duration, ExperimentPhase, ExperimentStatus, GameDayRunStatus, RunPhase, Verdict, WorkloadKind, WorkloadRef};
use crate::engine::admit::{Candidates, Choice};
use crate::engine::{Action, Plan, Run, Sample, Seen, What};

use super::Violation;
use super::cluster::{Cluster, Pod};

/// An order given before the operator heard of a cord, a stop or a deletion may arrive this long after it: a
/// call that was not answered is given up after a second, and the turn goes on.
const LATE: Duration = Duration::from_secs(2);
/// Numbers of candidates are remembered this long: a choice may rest on a look that is a few calls old.
const REMEMBERED: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Witness {
    started: Timestamp,
    run_uid: String,
    plan: Option<Plan>,
    wounds: Vec<Wound>,
    /// Whether somebody, or the run, gave a workload more replicas than it had.
    grown: bool,
    /// Candidates of each experiment just before it first hit somebody.
    whole: BTreeMap<usize, usize>,
    /// Candidates of each experiment, as the model had them.
    counts: VecDeque<(Timestamp, Vec<usize>)>,
    /// Answered samples: operator, probe, sample, when it was answered.
    samples: Vec<(usize, usize, Sample, Timestamp)>,
    before: Before,
    ended: Option<Timestamp>,
    cord: Option<Timestamp>,
    stale_until: Option<Timestamp>,
    pub violations: Vec<Violation>,
}

/// The cluster before the run, and what somebody else made of it since.
#[derive(Debug)]
struct Before {
    replicas: BTreeMap<WorkloadRef, Vec<i32>>,
    schedulable: BTreeMap<String, bool>,
}

/// Something that the run truly did to the cluster.
#[derive(Clone, Debug)]
struct Wound {
    experiment: usize,
    kind: WoundKind,
    uid: String,
}

#[derive(Clone, Debug)]
enum WoundKind {
    Lost,
    Scaled(WorkloadRef),
    Cordoned(String),
    /// By a node, under this name.
    Held(String),
}

impl Witness {
    pub fn new(cluster: &Cluster, run: &Run) -> Self {
        let replicas = cluster.workloads.iter().map(|(of, workload)| (of.clone(), vec![workload.replicas])).collect();
        let schedulable = cluster.nodes.iter().map(|(name, node)| (name.clone(), node.schedulable)).collect();
        Witness {
            started: cluster.now(),
            run_uid: run.id.uid.clone(),
            plan: run.plan.clone().ok(),
            wounds: Vec::new(),
            grown: false,
            whole: BTreeMap::new(),
            counts: VecDeque::new(),
            samples: Vec::new(),
            before: Before { replicas, schedulable },
            ended: None,
            cord: None,
            stale_until: None,
            violations: Vec::new(),
        }
    }

    pub fn violated(&mut self, at: Timestamp, promise: &'static str, text: String) {
        self.violations.push(Violation { since: Duration::between(self.started, at), promise, text });
    }

    pub fn sampled(&mut self, operator: usize, at: Timestamp, answered: Vec<(usize, Sample)>) {
        self.samples.extend(answered.into_iter().map(|(probe, sample)| (operator, probe, sample, at)));
    }

    /// The run was deleted or stopped.
    pub fn told_to_end(&mut self, at: Timestamp) {
        self.ended.get_or_insert(at);
    }

    pub fn cord(&mut self, pulled: Option<Timestamp>) {
        self.cord = pulled;
    }

    /// Operators cannot know what happens before this time.
    pub fn stale_until(&mut self, until: Timestamp) {
        self.stale_until = Some(self.stale_until.map_or(until, |before| before.max(until)));
    }

    pub fn scaled_by_hand(&mut self, of: &WorkloadRef, replicas: i32) {
        if let Some(known) = self.before.replicas.get_mut(of) {
            self.grown |= known.iter().any(|before| *before < replicas);
            known.push(replicas);
        }
    }

    pub fn node_vanished(&mut self, name: &str) {
        self.before.schedulable.remove(name);
    }

    /// Remembers how many could be hit.
    pub fn look_around(&mut self, cluster: &Cluster) {
        let Some(plan) = &self.plan else { return };
        let counts = (0..plan.experiments.len()).map(|index| self.candidates(plan, index, cluster)).collect();
        let now = cluster.now();
        if self.counts.back().is_none_or(|(_, last)| *last != counts) {
            self.counts.push_back((now, counts));
        }
        // The last one that is too old still held until the next.
        while self.counts.get(1).is_some_and(|(at, _)| *at + REMEMBERED.as_signed() < now) {
            self.counts.pop_front();
        }
    }

    /// Those who are up, and those who are down because of the run.
    fn candidates(&self, plan: &Plan, index: usize, cluster: &Cluster) -> usize {
        match &plan.experiments[index].candidates {
            Candidates::Pods(_) => {
                // Whoever took them away.
                self.up(index, cluster) + self.in_force(|other| self.same(index, other), cluster)
            }
            Candidates::Nodes(selector) => {
                let usable = cluster.nodes.values().filter(|node| selector.matches(&node.labels) && node.ready);
                usable.filter(|node| node.schedulable || node.held_by.as_deref() == Some(&self.run_uid)).count()
            }
            Candidates::Workload(of) => cluster.workloads.get(of).map_or(0, |workload| {
                let before = workload.held.as_ref().map_or(workload.replicas, |held| held.back);
                usize::try_from(before).unwrap_or(0)
            }),
        }
    }

    /// How much a wound takes away now.
    fn weight(&self, wound: &Wound, cluster: &Cluster) -> usize {
        match &wound.kind {
            WoundKind::Lost => {
                let waited_for = cluster.pods.contains_key(&wound.uid)
                    || cluster.workloads.values().any(|workload| workload.awaited.contains(&wound.uid))
                    || cluster.pods.values().any(|pod| pod.stands_in_for.as_ref() == Some(&wound.uid) && !pod.served);
                usize::from(waited_for)
            }
            WoundKind::Scaled(of) => {
                let held = cluster.workloads.get(of).and_then(|workload| workload.held.as_ref());
                let ours = held.filter(|held| held.by == self.run_uid);
                ours.map_or(0, |held| usize::try_from(held.back - held.set).unwrap_or(1).max(1))
            }
            WoundKind::Held(name) => usize::from(cluster.is_held(name)),
            WoundKind::Cordoned(name) => {
                let held = cluster.nodes.get(name).is_some_and(|node| node.held_by.as_deref() == Some(&self.run_uid));
                usize::from(held)
            }
        }
    }

    /// What these experiments have in force. Lost pods count until they are replaced, or until as many candidates
    /// are up as before: where somebody adds pods meanwhile, nothing is missing.
    fn in_force(&self, of: impl Fn(usize) -> bool, cluster: &Cluster) -> usize {
        let own = self.wounds.iter().filter(|wound| of(wound.experiment));
        let (lost, held): (Vec<&Wound>, Vec<&Wound>) = own.partition(|wound| matches!(wound.kind, WoundKind::Lost));
        // By selector, because two experiments may have taken from the same pods.
        let mut groups: Vec<(&Candidates, Vec<usize>, usize)> = Vec::new();
        for wound in lost {
            let Some(candidates) = self.plan.as_ref().map(|plan| &plan.experiments[wound.experiment].candidates) else {
                continue;
            };
            let weight = self.weight(wound, cluster);
            match groups.iter_mut().find(|(known, _, _)| *known == candidates) {
                Some((_, members, sum)) => {
                    members.push(wound.experiment);
                    *sum += weight;
                }
                None => groups.push((candidates, vec![wound.experiment], weight)),
            }
        }
        let missing = groups.into_iter().map(|(_, members, lost)| {
            let whole = members.iter().filter_map(|index| self.whole.get(index)).max().copied().unwrap_or(0);
            lost.min(whole.saturating_sub(self.up(members[0], cluster)))
        });
        // Where pods were added, selectors that overlap would count one lost pod twice.
        let missing: usize = if self.grown { missing.max().unwrap_or(0) } else { missing.sum() };
        missing + held.into_iter().map(|wound| self.weight(wound, cluster)).sum::<usize>()
    }

    /// Whether two experiments choose from the same candidates.
    fn same(&self, one: usize, other: usize) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.experiments[one].candidates == plan.experiments[other].candidates)
    }

    /// Pods among an experiment's candidates that are up.
    fn up(&self, index: usize, cluster: &Cluster) -> usize {
        match self.plan.as_ref().map(|plan| &plan.experiments[index].candidates) {
            Some(Candidates::Pods(selector)) => {
                let up = |pod: &&Pod| selector.matches(&pod.labels) && pod.ready && pod.ends.is_none();
                cluster.pods.values().filter(up).count()
            }
            Some(Candidates::Nodes(_) | Candidates::Workload(_)) | None => 0,
        }
    }

    /// An injection that truly changed something.
    pub fn injected(&mut self, cluster: &Cluster, action: &Action, recorded: Option<&GameDayRunStatus>) {
        let now = cluster.now();
        let Some(plan) = self.plan.clone() else {
            return self.violated(now, "P1", "something was injected by a run that was refused".to_owned());
        };
        let target = &action.target;
        self.was_recorded(now, action, recorded);
        if now > action.latest_end + LATE.as_signed() {
            let late = Duration::between(action.latest_end, now);
            self.violated(now, "P1", format!("{target} was hit {late} after the latest end that its order names"));
        }
        let deaf = |since: Timestamp, stale: Option<Timestamp>| stale.map_or(since, |until| until.max(since)) + LATE.as_signed();
        for (since, what) in [(self.cord, "the cord was pulled"), (self.ended, "the run was ended")] {
            if let Some(since) = since
                && now > deaf(since, self.stale_until)
            {
                self.violated(now, "P4", format!("{target} was hit {} after {what}", Duration::between(since, now)));
            }
        }
        let Some(index) = plan.experiments.iter().position(|planned| planned.name == action.experiment) else {
            return self.violated(now, "P1", format!("{target} was hit for an experiment that is not there"));
        };
        let workload = |kind| WoundKind::Scaled(WorkloadRef { kind, name: target.name.clone() });
        let kind = match (&action.what, target.kind) {
            (What::Scale { .. }, crate::api::TargetKind::StatefulSet) => workload(WorkloadKind::StatefulSet),
            (What::Scale { .. }, _) => workload(WorkloadKind::Deployment),
            (What::Cordon, _) => WoundKind::Cordoned(target.name.clone()),
            (What::Order(order), _) => WoundKind::Held(order.name.clone()),
            (What::Kill { .. } | What::Evict | What::Unscale { .. } | What::Uncordon | What::Revoke(_), _) => WoundKind::Lost,
        };
        if let What::Scale { from, to } = action.what {
            self.grown |= to > from;
        }
        if let Some((_, counts)) = self.counts.back() {
            self.whole.entry(index).or_insert(counts[index]);
        }
        // An object that is held again is held once.
        self.wounds.retain(|wound| wound.uid != target.uid);
        self.wounds.push(Wound { experiment: index, kind, uid: target.uid.clone() });
        self.is_within(&plan, index, cluster);
    }

    fn was_recorded(&mut self, now: Timestamp, action: &Action, recorded: Option<&GameDayRunStatus>) {
        // Of a run that was deleted a moment ago, the last record is not there to be read.
        let Some(recorded) = recorded else { return };
        let experiment = recorded.experiments.iter().find(|experiment| experiment.name == action.experiment);
        let named = experiment.and_then(|experiment| experiment.targets.iter().find(|named| named.uid == action.target.uid));
        match named {
            None => self.violated(now, "P1", format!("{} was hit, and the record does not name it", action.target)),
            Some(named) if named.latest_end != action.latest_end => {
                self.violated(now, "P1", format!("{} was hit with another latest end than recorded", action.target));
            }
            Some(_) => {}
        }
    }

    fn is_within(&mut self, plan: &Plan, index: usize, cluster: &Cluster) {
        let now = cluster.now();
        self.look_around(cluster);
        let all = self.in_force(|_| true, cluster);
        let targets_max = usize::try_from(plan.blast_radius.targets).unwrap_or(0);
        if all > targets_max {
            self.violated(now, "P2", format!("{all} in force, {targets_max} allowed"));
        }
        let here = self.in_force(|other| self.same(index, other), cluster);
        let most = self.counts.iter().map(|(_, counts)| counts[index]).max().unwrap_or(0);
        let percent_max = plan.blast_radius.percent.of(most);
        if here > percent_max {
            let name = &plan.experiments[index].name;
            self.violated(now, "P2", format!("{here} of {most} in force in {name}, {percent_max} allowed"));
        }
    }

    /// A record was written.
    pub fn wrote(&mut self, operator: usize, cluster: &Cluster, before: &GameDayRunStatus, after: &GameDayRunStatus) {
        let now = cluster.now();
        if before.phase == RunPhase::Finished {
            self.violated(now, "P1", "the record of a finished run was changed".to_owned());
        }
        let Some(plan) = self.plan.clone() else { return };
        for (index, experiment) in after.experiments.iter().enumerate() {
            let earlier = before.experiments.get(index);
            self.keeps_victims(now, &plan, index, earlier, experiment);
            let judged_now = experiment.phase == ExperimentPhase::Judged
                && earlier.is_none_or(|earlier| earlier.phase != ExperimentPhase::Judged);
            if judged_now && experiment.verdict == Some(Verdict::Passed) {
                self.deserves_pass(operator, cluster, &plan, experiment);
            }
        }
        if after.phase == RunPhase::Finished && !after.experiments.is_empty() {
            let worst = after.experiments.iter().filter_map(|experiment| experiment.verdict).min();
            if worst != after.verdict {
                self.violated(now, "P6", format!("the run is judged {:?}, its worst experiment {worst:?}", after.verdict));
            }
            if let Some(open) = after.experiments.iter().find(|experiment| experiment.phase != ExperimentPhase::Judged) {
                self.violated(now, "P4", format!("the run is finished, and {} is {}", open.name, open.phase));
            }
        }
    }

    /// One victim set: what was named stays named, and only a repeated fault names more.
    fn keeps_victims(
        &mut self,
        now: Timestamp,
        plan: &Plan,
        index: usize,
        before: Option<&ExperimentStatus>,
        after: &ExperimentStatus,
    ) {
        let planned = &plan.experiments[index];
        let uids = |status: &ExperimentStatus| status.targets.iter().map(|target| target.uid.clone()).collect::<Vec<_>>();
        let (earlier, later) = (before.map(uids).unwrap_or_default(), uids(after));
        let name = &after.name;
        if !later.starts_with(&earlier) {
            self.violated(now, "P9", format!("{name} had the victims {earlier:?}, and has {later:?}"));
        }
        if !earlier.is_empty() && later.len() > earlier.len() && planned.kind.every().is_none() {
            self.violated(now, "P9", format!("{name} is not repeated, and chose twice: {later:?}"));
        }
        if let Choice::Count(count) = planned.choose
            && later.len() > earlier.len() + count
        {
            self.violated(now, "P2", format!("{name} chose {} at once, {count} wanted", later.len() - earlier.len()));
        }
    }

    /// Passed: what the record claims is compared with what the model knows.
    fn deserves_pass(&mut self, operator: usize, cluster: &Cluster, plan: &Plan, status: &ExperimentStatus) {
        let now = cluster.now();
        let name = &status.name;
        let mut wrong = Vec::new();
        if status.targets.is_empty() || status.targets.iter().any(|target| target.bite.is_none() || target.clean.is_none()) {
            wrong.push("without proof of bite and clean for each target".to_owned());
        }
        if !(status.saw.before && status.saw.during && status.saw.after) {
            wrong.push("without probe evidence before, during and after".to_owned());
        }
        for target in &status.targets {
            let Some(wound) = self.wounds.iter().find(|wound| wound.uid == target.uid) else {
                // A pod may be gone by somebody else's hand; anything else was never done.
                if target.undo.is_some() {
                    wrong.push(format!("though {} was never hit", target.name));
                }
                continue;
            };
            if plan.experiments[wound.experiment].name != *name {
                // Another experiment holds it by now.
                continue;
            }
            let left = match wound.kind {
                WoundKind::Lost => cluster.pods.contains_key(&target.uid),
                WoundKind::Scaled(_) | WoundKind::Cordoned(_) | WoundKind::Held(_) => self.weight(wound, cluster) > 0,
            };
            if left {
                wrong.push(format!("though the fault is still on {}", target.name));
            }
        }
        if let (Some(from), Some(to)) = (status.injected, status.reverted) {
            wrong.extend(self.breach_seen(operator, plan, from, to));
            wrong.extend(self.blind_seen(plan, from, to));
        } else {
            wrong.push("without the times of its fault".to_owned());
        }
        for wrong in wrong {
            self.violated(now, "P6", format!("{name} passed {wrong}"));
        }
    }

    fn breach_seen(&self, operator: usize, plan: &Plan, from: Timestamp, to: Timestamp) -> Option<String> {
        for (index, probe) in plan.steady_state.iter().enumerate() {
            let mut streak = 0;
            for (_, _, sample, answered) in self.samples.iter().filter(|(of, at, _, _)| *of == operator && *at == index) {
                match sample.seen {
                    Seen::Good(_) => streak = 0,
                    Seen::Bad(_) => streak += 1,
                    Seen::Blind(_) => {}
                }
                if streak >= probe.breach_after_count() && *answered > from && *answered < to {
                    return Some(format!("though {} breached", probe.name));
                }
            }
        }
        None
    }

    /// No probe may have been blind for longer than a breach takes, whoever watched.
    fn blind_seen(&self, plan: &Plan, from: Timestamp, to: Timestamp) -> Option<String> {
        plan.steady_state.iter().enumerate().find_map(|(index, probe)| {
            let mut seen: Vec<Timestamp> = self
                .samples
                .iter()
                .filter(|(_, of, sample, _)| *of == index && !matches!(sample.seen, Seen::Blind(_)))
                .map(|(_, _, sample, _)| sample.started)
                .filter(|started| *started >= from && *started <= to)
                .collect();
            seen.extend([from, to]);
            seen.sort();
            // The last sample's answer, and the turn after it, are on top.
            let allowed = probe.patience().saturating_add(probe.every).saturating_add(LATE);
            let longest = seen.windows(2).map(|pair| Duration::between(pair[0], pair[1])).max().unwrap_or(Duration::ZERO);
            (longest > allowed).then(|| format!("though {} saw nothing for {longest}", probe.name))
        })
    }

    /// After everything: the cluster is as it was. `swept`: what only the sweep brought back.
    pub fn at_the_end(&mut self, cluster: &Cluster, status: &GameDayRunStatus, deleted: bool, swept: &[String], rivals: bool) {
        let now = cluster.now();
        let unproven = status.experiments.iter().flat_map(|experiment| &experiment.targets).any(|target| target.clean.is_none());
        if !swept.is_empty() && !deleted && !unproven && !rivals {
            self.violated(now, "P4", format!("judged clean, and the sweep found {}", swept.join(", ")));
        }
        let mut left = Vec::new();
        for (of, workload) in &cluster.workloads {
            if workload.held.is_some() {
                left.push(format!("{of} is still labelled"));
            }
            let known = &self.before.replicas[of];
            if !known.contains(&workload.replicas) {
                left.push(format!("{of} has {} replicas, not one of {known:?}", workload.replicas));
            }
        }
        for (name, node) in &cluster.nodes {
            if node.held_by.is_some() {
                left.push(format!("node {name} is still labelled"));
            }
            if self.before.schedulable.get(name).is_some_and(|before| *before != node.schedulable) {
                left.push(format!("node {name} is left with schedulable: {}", node.schedulable));
            }
        }
        left.extend(cluster.injections.keys().filter(|name| cluster.is_held(name)).map(|name| format!("{name} is still held")));
        for left in left {
            self.violated(now, "P4", left);
        }
    }
}
