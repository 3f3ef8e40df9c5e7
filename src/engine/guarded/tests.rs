//! Several runs in one pretended cluster under random guardrails: never above a limit, and whoever can start does.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::api::{Cap, FaultKind, GuardrailSpec, InjectionPhase, People, Percent, ReadyAtLeast, RunPhase, SingleReplica, Whose};
use crate::engine::guardrail::slots::{Board, Next, Ticket, leave, turn};
use crate::engine::guardrail::{NodeShown, PodShown, WorkloadShown};
use crate::engine::steady::{Sample, Seen};
use crate::engine::{
    AgentSeen, Answer as Permitted, InjectionSeen, Observation, Outcome, Performed, PodSeen, RunId, SlotSeen, Track, What,
    WorkloadSeen, record, step,
};

const NAMESPACE: &str = "shop";
/// One step is one second.
const STEPS: i64 = 900;
/// A killed pod's replacement is ready after so long.
const STARTING: i64 = 3;

#[derive(Clone, Debug)]
struct Case {
    /// Replicas of each workload.
    workloads: Vec<usize>,
    guardrails: Vec<GuardrailSpec>,
    /// Workload, kind of fault, how many.
    runs: Vec<(usize, u8, usize)>,
    /// Second, workload, what happens to it.
    events: Vec<(i64, usize, u8)>,
    order: Vec<u8>,
}

fn cap() -> impl Strategy<Value = Cap> {
    let percent = (10_i64..=100).prop_map(|percent| Percent::new(percent).unwrap());
    prop_oneof![
        (0..4).prop_map(|targets| Cap { targets: Some(targets), percent: None }),
        percent.clone().prop_map(|percent| Cap { targets: None, percent: Some(percent) }),
        ((0..4), percent).prop_map(|(targets, percent)| Cap { targets: Some(targets), percent: Some(percent) }),
    ]
}

fn guardrail() -> impl Strategy<Value = GuardrailSpec> {
    let reach =
        (proptest::option::of(cap()), proptest::option::of(cap()), proptest::option::of(cap()), proptest::option::of(0..3));
    (1..4, reach, any::<bool>(), any::<bool>()).prop_map(|(runs, (workload, namespace, zone, ready), spare, rollout)| {
        let mut spec: GuardrailSpec = serde_json::from_str("{}").unwrap();
        spec.runs = runs;
        (spec.reach.workload, spec.reach.namespace, spec.reach.zone) = (workload, namespace, zone);
        spec.reach.ready_left = ready.map(|count| ReadyAtLeast { count: Some(count), percent: None });
        spec.reach.single_replica = if spare { SingleReplica::Spare } else { SingleReplica::Allow };
        spec.moment.rollout = rollout.then_some(Whose::Targets);
        spec
    })
}

fn case(events: usize) -> impl Strategy<Value = Case> {
    let workloads = proptest::collection::vec(1_usize..=6, 1..=3);
    let guardrails = proptest::collection::vec(guardrail(), 1..=2);
    let runs = proptest::collection::vec((0_usize..3, 0_u8..3, 1_usize..=3), 2..=5);
    let events = proptest::collection::vec((0_i64..60, 0_usize..3, 0_u8..3), 0..=events);
    let order = proptest::collection::vec(any::<u8>(), 16);
    (workloads, guardrails, runs, events, order).prop_map(|(workloads, guardrails, runs, events, order)| Case {
        workloads,
        guardrails,
        runs,
        events,
        order,
    })
}

struct Pod {
    uid: String,
    /// From when on.
    ready: i64,
    zone: usize,
}

struct Workload {
    replicas: usize,
    pods: Vec<Pod>,
    rolling: bool,
    held: Option<String>,
}

struct Going {
    run: Run,
    outcomes: BTreeMap<String, Performed>,
    injections: BTreeMap<String, InjectionSeen>,
    slot: SlotSeen,
    track: Track,
}

struct Sim {
    case: Case,
    workloads: Vec<Workload>,
    going: Vec<Going>,
    named: Arc<Vec<Named>>,
    boards: Vec<crate::api::GuardrailStatus>,
    second: i64,
    made: usize,
}

fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000 + second)
}

fn app(index: usize) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), format!("w{index}"))])
}

impl Sim {
    fn new(case: Case) -> Sim {
        let named =
            case.guardrails.iter().enumerate().map(|(index, spec)| Named { name: format!("g{index}"), spec: spec.clone() });
        let mut sim = Sim {
            workloads: Vec::new(),
            going: Vec::new(),
            named: Arc::new(named.collect()),
            boards: vec![Default::default(); case.guardrails.len()],
            second: 0,
            made: 0,
            case,
        };
        for replicas in sim.case.workloads.clone() {
            sim.workloads.push(Workload { replicas, pods: Vec::new(), rolling: false, held: None });
        }
        sim.settle(-100);
        for (number, (workload, kind, count)) in sim.case.runs.clone().into_iter().enumerate() {
            sim.going.push(going(number, workload % sim.workloads.len(), kind, count));
        }
        sim
    }

    /// Controllers make what is missing and take what is too much.
    fn settle(&mut self, ready: i64) {
        for workload in &mut self.workloads {
            while workload.pods.len() < workload.replicas {
                self.made += 1;
                workload.pods.push(Pod { uid: format!("pod-{}", self.made), ready, zone: self.made % 2 });
            }
            workload.pods.truncate(workload.replicas);
        }
    }

    fn key(index: usize) -> WorkloadKey {
        WorkloadKey { namespace: NAMESPACE.to_owned(), kind: "Deployment".to_owned(), name: format!("w{index}") }
    }

    fn guarded(&self) -> Guarded {
        let mut picture =
            Picture { synced: true, namespaces: BTreeMap::from([(NAMESPACE.to_owned(), BTreeMap::new())]), ..Picture::default() };
        for (index, workload) in self.workloads.iter().enumerate() {
            let shown = WorkloadShown {
                replicas: workload.replicas,
                pod_labels: app(index),
                rolling: workload.rolling.then(|| "half".to_owned()),
            };
            picture.workloads.insert(Sim::key(index), shown);
            picture.pods.extend(workload.pods.iter().map(|pod| PodShown {
                namespace: NAMESPACE.to_owned(),
                name: pod.uid.clone(),
                uid: pod.uid.clone(),
                labels: app(index),
                node: Some(format!("n{}", pod.zone)),
                owner: Some(Sim::key(index)),
                ready: pod.ready <= self.second,
                terminating: false,
                images: BTreeSet::new(),
            }));
        }
        picture.nodes = (0..2)
            .map(|zone| NodeShown {
                name: format!("n{zone}"),
                uid: format!("node-{zone}"),
                labels: BTreeMap::new(),
                zone: Some(format!("z{zone}")),
                ready: true,
                schedulable: true,
            })
            .collect();
        picture.in_force = self.going.iter().flat_map(|going| recorded(&going.run)).map(|one| one.hit(&picture)).collect();
        Guarded { guardrails: Arc::clone(&self.named), picture: Arc::new(picture), passes: Arc::default() }
    }

    fn observe(&self, number: usize) -> Observation {
        let going = &self.going[number];
        let plan = going.run.plan.as_ref().unwrap();
        let pods =
            self.workloads.iter().enumerate().flat_map(|(index, workload)| workload.pods.iter().map(move |pod| (index, pod)));
        let pods: Vec<PodSeen> = pods
            .map(|(index, pod)| PodSeen {
                name: pod.uid.clone(),
                uid: pod.uid.clone(),
                node: Some(format!("n{}", pod.zone)),
                labels: app(index),
                ready: pod.ready <= self.second,
                terminating: false,
                containers: vec![("app".to_owned(), pod.uid.clone())],
                liveness: BTreeMap::new(),
                host_network: false,
                owner: Some(Sim::key(index)),
                images: BTreeSet::new(),
                ended: false,
            })
            .collect();
        let there: BTreeSet<&String> = pods.iter().map(|pod| &pod.uid).collect();
        let targets = going.run.status.experiments.iter().flat_map(|experiment| &experiment.targets);
        let gone = targets.filter(|target| target.kind == TargetKind::Pod && !there.contains(&target.uid));
        let workloads = self.workloads.iter().enumerate().map(|(index, workload)| {
            let reference = crate::api::WorkloadRef { kind: crate::api::WorkloadKind::Deployment, name: format!("w{index}") };
            let count = |count: usize| i32::try_from(count).unwrap();
            let seen = WorkloadSeen {
                uid: format!("w-{index}"),
                replicas: count(workload.replicas),
                observed: count(workload.pods.len()),
                ready: count(workload.pods.iter().filter(|pod| pod.ready <= self.second).count()),
                pod_labels: app(index),
                rolling: None,
                held_by: workload.held.clone(),
            };
            (reference, Some(seen))
        });
        let ready = AgentSeen::Ready { faults: BTreeSet::from([FaultKind::Cpu]), cannot: BTreeMap::new() };
        Observation {
            gone: gone.map(|target| target.uid.clone()).collect(),
            workloads: workloads.collect(),
            synced: true,
            permissions: plan.permissions().into_iter().map(|permission| (permission, Permitted::Allowed)).collect(),
            probes: vec![going.track.clone()],
            outcomes: going.outcomes.clone(),
            injections: going.injections.clone(),
            agents: (0..2).map(|zone| (format!("n{zone}"), ready.clone())).collect(),
            guarded: Some(self.guarded()),
            slot: going.slot.clone(),
            pods,
            ..Observation::default()
        }
    }

    fn take_turn(&mut self, number: usize) {
        if self.going[number].run.status.phase == RunPhase::Finished {
            return;
        }
        let now = at(self.second);
        let sample = Sample { started: now, took_ms: 1.0, seen: Seen::Good("200".to_owned()), margin: None };
        self.going[number].track.push(sample);
        for _ in 0..12 {
            let seen = self.observe(number);
            let run = self.going[number].run.clone();
            let step = step(&run, &seen, now);
            let (reverts, injections): (Vec<_>, Vec<_>) = step.actions.iter().cloned().partition(|action| action.reverts());
            let mut moved = step.state != run.status || !reverts.is_empty();
            for action in reverts {
                self.perform(number, action);
            }
            let before = run.status.clone();
            let mut next = Run { status: step.state, ..run };
            record::append(&mut next.status, step.entries);
            let targets = |status: &GameDayRunStatus| status.experiments.iter().map(|one| one.targets.len()).sum::<usize>();
            let injects = targets(&next.status) > targets(&before);
            if injects && !self.guarded().may_claim(&next, &before, &[], now) {
                return;
            }
            self.going[number].run = next;
            if injects {
                self.check_reach(number);
            }
            if step.wants_slot {
                let slot = self.slot(number, now);
                moved |= slot != self.going[number].slot;
                self.going[number].slot = slot;
            }
            for action in injections {
                moved = true;
                self.perform(number, action);
            }
            if self.going[number].run.status.phase == RunPhase::Finished {
                let uid = self.going[number].run.id.uid.clone();
                for board in &mut self.boards {
                    *board = leave(board, &uid).unwrap_or_else(|| board.clone());
                }
                return;
            }
            self.check_slots();
            if !moved {
                return;
            }
        }
    }

    fn slot(&mut self, number: usize, now: Timestamp) -> SlotSeen {
        let id = &self.going[number].run.id;
        let ticket = Ticket { namespace: id.namespace.clone(), run: id.name.clone(), uid: id.uid.clone(), since: at(-50) };
        for _ in 0..20 {
            let boards: Vec<Board> = self
                .named
                .iter()
                .zip(&self.boards)
                .map(|(named, status)| Board { name: &named.name, limit: named.spec.runs as usize, status })
                .collect();
            match turn(&boards, &ticket, &BTreeSet::new(), now) {
                Next::Taken => return SlotSeen::Taken,
                Next::Wait(waits) => return SlotSeen::Waiting(waits.to_string()),
                Next::Write { guardrail, status } | Next::GiveBack { guardrail, status } => {
                    let index = self.named.iter().position(|named| named.name == guardrail).unwrap();
                    self.boards[index] = status;
                }
            }
        }
        panic!("never settles");
    }

    fn perform(&mut self, number: usize, action: crate::engine::Action) {
        let uid = self.going[number].run.id.uid.clone();
        let index = action.target.name.strip_prefix('w').and_then(|index| index.parse::<usize>().ok());
        match (&action.what, index) {
            (What::Kill { .. }, _) => {
                for workload in &mut self.workloads {
                    workload.pods.retain(|pod| pod.uid != action.target.uid);
                }
                self.settle(self.second + STARTING);
            }
            (What::Scale { from, to }, Some(index)) => {
                let workload = &mut self.workloads[index];
                if workload.held.is_none() && workload.replicas == *from as usize {
                    (workload.held, workload.replicas) = (Some(uid), *to as usize);
                    self.settle(self.second + STARTING);
                }
            }
            (What::Unscale { set, back }, Some(index)) => {
                let workload = &mut self.workloads[index];
                if workload.held.as_ref() == Some(&uid) {
                    workload.held = None;
                    if workload.replicas == *set as usize {
                        workload.replicas = *back as usize;
                    }
                    self.settle(self.second + STARTING);
                }
            }
            (What::Order(order), _) => {
                let seen =
                    InjectionSeen { phase: InjectionPhase::Holding, bite: Some("burnt".to_owned()), clean: None, why: None };
                self.going[number].injections.insert(order.name.clone(), seen);
            }
            (What::Revoke(order), _) => {
                let seen = InjectionSeen {
                    phase: InjectionPhase::Cleared,
                    bite: Some("burnt".to_owned()),
                    clean: Some("gone".to_owned()),
                    why: None,
                };
                self.going[number].injections.insert(order.name.clone(), seen);
            }
            (other, _) => panic!("{other:?}"),
        }
        let performed = Performed { at: at(self.second), reverting: action.reverts(), outcome: Outcome::Done };
        self.going[number].outcomes.insert(action.target.uid.clone(), performed);
    }

    /// Counted anew, by its own rules: what is left of a workload that was just hit, and of its namespace.
    fn check_reach(&self, number: usize) {
        let in_force: Vec<Recorded> = self.going.iter().flat_map(|going| recorded(&going.run)).collect();
        let hit: BTreeSet<&str> = in_force.iter().map(|one| one.target.uid.as_str()).collect();
        let own: BTreeSet<String> = recorded(&self.going[number].run).into_iter().map(|one| one.target.uid).collect();
        let mut sum = (0, 0);
        for (index, workload) in self.workloads.iter().enumerate() {
            let scaled = in_force.iter().find(|one| one.target.uid == format!("w-{index}")).map(|one| one.effect);
            let (from, to) = match scaled {
                Some(Effect::Scales { from, to }) => (from, to),
                _ => (workload.replicas, usize::MAX),
            };
            let whole = from.max(workload.pods.len());
            let untouched =
                workload.pods.iter().filter(|pod| pod.ready <= self.second && !hit.contains(pod.uid.as_str())).count();
            let left = untouched.min(to);
            // Replicas that a fault added are not missing while they start.
            let starting = workload.pods.iter().filter(|pod| pod.ready > self.second && !hit.contains(pod.uid.as_str())).count();
            let added = if to == usize::MAX { 0 } else { to.saturating_sub(from) };
            let affected = (whole - left.min(whole)).saturating_sub(starting.min(added));
            sum = (sum.0 + whole, sum.1 + affected);
            let is_hit = own.contains(&format!("w-{index}")) || workload.pods.iter().any(|pod| own.contains(&pod.uid));
            // Growing takes nothing away.
            if !is_hit || to != usize::MAX && to >= from {
                continue;
            }
            for named in self.named.iter() {
                let reach = &named.spec.reach;
                if let Some(cap) = &reach.workload {
                    assert!(affected <= most(cap, whole), "{affected} of {whole} of w{index}: {cap:?}\n{:#?}", self.case);
                }
                if let Some(ReadyAtLeast { count: Some(count), .. }) = &reach.ready_left {
                    assert!(left >= *count as usize, "{left} of {whole} of w{index} left: {count}\n{:#?}", self.case);
                }
                if reach.single_replica == SingleReplica::Spare {
                    assert!(from > 1, "w{index} is the only one\n{:#?}", self.case);
                }
                if named.spec.moment.rollout.is_some() {
                    assert!(!workload.rolling, "w{index} rolls out\n{:#?}", self.case);
                }
            }
        }
        let shrinks = in_force
            .iter()
            .any(|one| own.contains(&one.target.uid) && !matches!(one.effect, Effect::Scales { from, to } if to >= from));
        for cap in self.named.iter().filter_map(|named| named.spec.reach.namespace.as_ref()).filter(|_| shrinks) {
            assert!(sum.1 <= most(cap, sum.0), "{} of {} of the namespace: {cap:?}\n{:#?}", sum.1, sum.0, self.case);
        }
    }

    fn check_slots(&self) {
        let under_way = self.going.iter().filter(|going| going.run.status.phase == RunPhase::Running).count();
        for named in self.named.iter() {
            assert!(under_way <= named.spec.runs as usize, "{under_way} under way: {}\n{:#?}", named.spec.runs, self.case);
        }
    }

    fn run(&mut self) {
        while self.second < STEPS && self.going.iter().any(|going| going.run.status.phase != RunPhase::Finished) {
            let due: Vec<_> = self.case.events.iter().filter(|(second, ..)| *second == self.second).copied().collect();
            for (second, workload, what) in due {
                let count = self.workloads.len();
                let workload = &mut self.workloads[workload % count];
                match what {
                    0 => workload.rolling = !workload.rolling,
                    1 => workload.pods.iter_mut().take(1).for_each(|pod| pod.ready = second + 5),
                    _ => workload.pods.truncate(workload.pods.len().saturating_sub(1)),
                }
                self.settle(second + STARTING);
            }
            if self.second == 60 {
                self.workloads.iter_mut().for_each(|workload| workload.rolling = false);
            }
            let turn = usize::from(self.case.order[self.second as usize % self.case.order.len()]);
            let count = self.going.len();
            for offset in 0..count {
                self.take_turn((turn + offset) % count);
            }
            self.second += 1;
        }
    }
}

fn most(cap: &Cap, whole: usize) -> usize {
    let targets = cap.targets.map_or(usize::MAX, |targets| targets as usize);
    targets.min(cap.percent.map_or(usize::MAX, |percent| percent.of(whole)))
}

fn going(number: usize, workload: usize, kind: u8, count: usize) -> Going {
    let (targets, fault) = match kind {
        0 => (
            format!("{{pods: {{matchLabels: {{app: w{workload}}}}}, choose: {{count: {count}}}}}"),
            "{podKill: {gracePeriod: 0s}}".to_owned(),
        ),
        1 => (
            format!("{{pods: {{matchLabels: {{app: w{workload}}}}}, choose: {{count: {count}}}}}"),
            "{cpu: {cores: 0.5}}".to_owned(),
        ),
        _ => (format!("{{workload: {{kind: Deployment, name: w{workload}}}}}"), format!("{{scale: {{replicas: {count}}}}}")),
    };
    let yaml = format!(
        "{{hypothesis: h, seed: {number}, steadyState: [{{name: p, tcp: {{address: 'p:1'}}}}], \
         blastRadius: {{targets: 9, percent: 100, hold: 1m}}, baseline: 0s, recovery: 20s, \
         experiments: [{{name: e, targets: {targets}, fault: {fault}, hold: 5s}}]}}"
    );
    let spec = crate::api::GameDayRunSpec {
        game_day_name: format!("day-{number}"),
        scheduled_for: None,
        game_day: serde_saphyr::from_str(&yaml).unwrap(),
        stop: None,
        people: People::default(),
        bound: None,
    };
    let id = RunId { namespace: NAMESPACE.to_owned(), name: format!("run-{number}"), uid: format!("uid-{number}") };
    Going {
        run: Run::new(id, 1, spec, GameDayRunStatus::default()),
        outcomes: BTreeMap::new(),
        injections: BTreeMap::new(),
        slot: SlotSeen::Unasked,
        track: Track::resume(None),
    }
}

fn seeds() -> u32 {
    std::env::var("GAMEDAY_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: seeds(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_limit_is_ever_passed_and_all_runs_end(case in case(12)) {
        let mut sim = Sim::new(case);
        sim.run();
        for going in &sim.going {
            prop_assert_eq!(going.run.status.phase, RunPhase::Finished, "{:#?}", going.run.status);
        }
        let replicas: Vec<usize> = sim.workloads.iter().map(|workload| workload.replicas).collect();
        prop_assert_eq!(&replicas, &sim.case.workloads, "all is set back");
        prop_assert!(sim.boards.iter().all(|board| board.runs.is_empty() && board.waiting.is_empty()));
    }

    #[test]
    fn nobody_waits_in_vain_where_nothing_else_happens(case in case(0)) {
        let mut sim = Sim::new(case);
        sim.run();
        for going in &sim.going {
            let why = going.run.status.why.clone().unwrap_or_default();
            // What can be done alone is done: it is refused at once, or it is hit.
            let touched = going.run.status.experiments.iter().any(|one| !one.targets.is_empty());
            prop_assert!(touched || why.contains("refused:"), "{why}\n{:#?}", sim.case);
        }
    }
}
