//! Tables for the pure parts, and the steps of a run that are easier to say here than in a rehearsal.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::guard::{self, Chosen};
use super::steady::Seen;
use super::*;
use crate::api::{ExperimentPhase, ExperimentStatus, Fault, FaultKind, FaultPart, GameDaySpec, People, RunPhase, Verdict, says};

const CHECKOUT: &str = r#"
hypothesis: Checkout answers while a pod dies.
seed: 7
steadyState:
- {name: checkout, http: {url: "http://checkout.shop.svc/healthz"}, every: 1s, timeout: 500ms}
blastRadius: {targets: 3, percent: 34, hold: 5m}
baseline: 10s
recovery: 60s
experiments:
- name: lose-a-pod
  targets: {pods: {matchLabels: {app: checkout}}, choose: {count: 1}}
  fault: {podKill: {gracePeriod: 0s}}
  hold: 30s
"#;

fn spec(yaml: &str) -> GameDaySpec {
    serde_saphyr::from_str(yaml).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000 + seconds)
}

fn pods(count: usize, not_ready: usize) -> Vec<PodSeen> {
    (0..count)
        .map(|index| PodSeen {
            owner: None,
            images: BTreeSet::new(),
            ended: false,
            name: format!("checkout-{index}"),
            uid: format!("uid-{index}"),
            node: None,
            labels: BTreeMap::from([("app".to_owned(), "checkout".to_owned())]),
            ready: index >= not_ready,
            terminating: false,
            containers: vec![("app".to_owned(), format!("id-{index}"))],
            liveness: BTreeMap::new(),
            host_network: false,
        })
        .collect()
}

fn run(yaml: &str) -> Run {
    let spec = GameDayRunSpec {
        game_day_name: "checkout".to_owned(),
        scheduled_for: None,
        game_day: spec(yaml),
        stop: None,
        people: People::default(),
        bound: None,
    };
    let id = RunId { namespace: "shop".to_owned(), name: "checkout-1".to_owned(), uid: "run-uid".to_owned() };
    Run::new(id, 1, spec, GameDayRunStatus::default())
}

/// Everything in order: three pods, all permissions, one probe that has been good since `good_since`.
fn seen(run: &Run, good_since: i64, now: i64) -> Observation {
    let plan = run.plan.as_ref().unwrap();
    let mut track = Track::resume(None);
    for second in good_since..=now {
        track.push(sample(second, Seen::Good("200".to_owned())));
    }
    Observation {
        synced: true,
        pods: pods(3, 0),
        permissions: plan.permissions().into_iter().map(|permission| (permission, Answer::Allowed)).collect(),
        probes: vec![track],
        ..Observation::default()
    }
}

fn sample(second: i64, seen: Seen) -> Sample {
    Sample { started: at(second), took_ms: 5.0, seen, margin: None }
}

fn take(run: &mut Run, seen: &Observation, now: i64) -> Step {
    let step = step(run, seen, at(now));
    run.status = step.state.clone();
    record::append(&mut run.status, step.entries.clone());
    step
}

/// A run that has just ordered its first kill.
fn injected() -> Run {
    let mut run = run(CHECKOUT);
    let seen = seen(&run, 0, 20);
    take(&mut run, &seen, 20);
    assert_eq!(run.status.experiments[0].phase, ExperimentPhase::Injecting);
    run
}

#[test]
fn every_problem_is_found_at_once_and_has_its_path() {
    let bad = spec(
        r#"
hypothesis: x
schedule: {cron: "61 * * * *", timeZone: Mars/Olympus}
steadyState:
- {name: a, http: {url: "ftp://x"}, tcp: {address: "x:1"}}
- {name: a, tcp: {address: nowhere}, every: 10ms}
blastRadius: {targets: 2, hold: 10s}
experiments:
- {name: one, targets: {pods: {}, choose: {count: 3}}, fault: {podKill: {}}, hold: 1m, after: [two]}
- {name: two, targets: {pods: {matchLabels: {a: b}}, choose: {count: 0}}, fault: {podKill: {}, podEvict: {}}, hold: 5s, after: [one]}
- {name: three, targets: {pods: {matchLabels: {a: b}}}, fault: {scale: {replicas: 1}}, hold: 5s, after: [nobody]}
"#,
    );
    let problems = admit::admit(&bad).unwrap_err();
    let expected = [
        ("spec.steadyState[0]", says::ONE_PROBE),
        ("spec.steadyState[0].http.url", says::URL),
        ("spec.steadyState[1].name", "\"a\" is already the name of number 0"),
        ("spec.steadyState[1].tcp.address", says::ADDRESS),
        ("spec.steadyState[1].every", "at least 100ms: a probe must cost little beside what it watches"),
        ("spec.experiments[2].after[0]", "no experiment is named \"nobody\""),
        ("spec.experiments[0].after", "these wait for each other: one → two → one; none could ever start"),
        ("spec.experiments[0].targets", says::EVERYTHING),
        ("spec.experiments[0].targets.choose.count", "3 is more than blastRadius.targets, 2"),
        ("spec.experiments[0].hold", "1m is longer than blastRadius.hold, 10s"),
        ("spec.experiments[1].targets.choose", says::NOBODY),
        ("spec.experiments[1].fault", says::ONE_FAULT),
        ("spec.experiments[2]", says::WORKLOAD_FAULT),
    ];
    for (path, message) in expected {
        assert!(
            problems.0.iter().any(|problem| problem.path == path && problem.message == message),
            "{path}: {message}\n{problems:#?}"
        );
    }
}

#[test]
fn what_percentages_come_to() {
    // ready, not ready, choose, blastRadius → chosen, or the words
    let table = [
        (
            1,
            0,
            "count: 1",
            "targets: 1, percent: 50",
            Err("1 of 1 ready pods with app=checkout is more than blastRadius.percent: 50 % of 1 is 0"),
        ),
        (1, 0, "count: 1", "targets: 1, percent: 100", Ok(1)),
        (2, 0, "count: 1", "targets: 1, percent: 50", Ok(1)),
        (
            2,
            1,
            "count: 1",
            "targets: 1, percent: 50",
            Err("1 of 1 ready pods with app=checkout is more than blastRadius.percent: 50 % of 1 is 0"),
        ),
        (3, 0, "percent: 34", "targets: 3, percent: 34", Ok(1)),
        (
            3,
            0,
            "percent: 33",
            "targets: 3, percent: 34",
            Err("choose.percent: 33 % of 3 is nobody; ask for at least 34 or use count"),
        ),
        (
            3,
            0,
            "count: 2",
            "targets: 3, percent: 34",
            Err("2 of 3 ready pods with app=checkout is more than blastRadius.percent: 34 % of 3 is 1"),
        ),
        (10, 0, "percent: 25", "targets: 5, percent: 50", Ok(2)),
        (10, 4, "percent: 50", "targets: 5, percent: 50", Ok(3)),
        (10, 0, "percent: 50", "targets: 4, percent: 50", Err("5 at once is more than blastRadius.targets, 4")),
        (0, 0, "count: 1", "targets: 1, percent: 50", Err("nobody to choose from: there are no ready pods with app=checkout")),
        (
            2,
            0,
            "count: 3",
            "targets: 3, percent: 100",
            Err("3 of 2 ready pods with app=checkout is more than blastRadius.percent: 100 % of 2 is 2"),
        ),
    ];
    for (ready, not_ready, choose, radius, expected) in table {
        let yaml = CHECKOUT
            .replace("choose: {count: 1}", &format!("choose: {{{choose}}}"))
            .replace("targets: 3, percent: 34, hold: 5m", &format!("{radius}, hold: 5m"));
        let run = run(&yaml);
        let plan = run.plan.clone().unwrap();
        let seen = Observation { synced: true, pods: pods(ready, not_ready), ..Observation::default() };
        let experiments = vec![ExperimentStatus::default()];
        let chosen = guard::choose(&run, &plan, &experiments, 0, 0, &seen);
        match (chosen, expected) {
            (Chosen::Targets { victims, .. }, Ok(count)) => assert_eq!(victims.len(), count, "{choose} {radius}"),
            (Chosen::Refused(why), Err(words)) => assert_eq!(why, words),
            (chosen, expected) => panic!("{ready} {not_ready} {choose} {radius}: {chosen:?}, not {expected:?}"),
        }
    }
}

#[test]
fn a_run_with_everything_in_order_orders_one_kill_and_only_after_its_record() {
    let mut run = run(CHECKOUT);
    let first = take(&mut run, &seen(&injected(), 0, 5), 5);
    assert_eq!(run.status.experiments[0].phase, ExperimentPhase::Baseline, "five seconds are not a baseline of ten");
    assert!(first.actions.is_empty());
    let ordered = take(&mut run, &seen(&injected(), 0, 10), 10);
    assert!(ordered.urgent);
    let status = &run.status.experiments[0];
    assert_eq!((status.targets.len(), ordered.actions.len()), (1, 1));
    assert_eq!(status.targets[0].uid, ordered.actions[0].target.uid);
    assert_eq!(status.targets[0].latest_end, at(40));
}

#[test]
fn a_step_taken_twice_changes_nothing() {
    let mut run = injected();
    let seen = seen(&run, 0, 20);
    let again = take(&mut run.clone(), &seen, 20);
    let before = run.status.clone();
    take(&mut run, &seen, 20);
    assert_eq!(before, run.status);
    assert!(again.entries.is_empty(), "{:?}", again.entries);
}

#[test]
fn a_cord_pulled_during_baseline_injects_nothing() {
    let mut run = run(CHECKOUT);
    let mut seen = seen(&run, 0, 5);
    take(&mut run, &seen, 5);
    seen.cord = Some(Pulled { name: "stop".to_owned(), reason: "pager".to_owned(), by: None });
    let step = take(&mut run, &seen, 6);
    assert!(step.actions.is_empty());
    assert_eq!((run.status.phase, run.status.verdict), (RunPhase::Finished, Some(Verdict::Inconclusive)));
    assert!(run.status.why.as_deref().unwrap().contains("pager"));
}

#[test]
fn a_breach_counts_only_consecutive_bad_samples_and_fails_the_run() {
    let mut run = injected();
    let mut seen = seen(&run, 0, 20);
    let victim = run.status.experiments[0].targets[0].uid.clone();
    seen.gone.insert(victim.clone());
    seen.pods.retain(|pod| pod.uid != victim);
    let bad = || Seen::Bad("connection refused".to_owned());
    for (second, said) in [(21, bad()), (22, bad()), (23, Seen::Good("200".to_owned())), (24, bad()), (25, bad())] {
        seen.probes[0].push(sample(second, said));
        take(&mut run, &seen, second);
        assert_eq!(run.status.experiments[0].phase, ExperimentPhase::Holding, "{second}");
    }
    seen.probes[0].push(sample(26, bad()));
    take(&mut run, &seen, 26);
    let status = &run.status.experiments[0];
    assert_eq!(status.first_bad, Some(at(24)));
    assert_eq!(status.time_to_abort, Some(Duration::ZERO), "a killed pod has nothing to revert");
    assert_eq!(status.phase, ExperimentPhase::Recovering);
    for second in 27..30 {
        seen.probes[0].push(sample(second, Seen::Good("200".to_owned())));
    }
    take(&mut run, &seen, 29);
    assert_eq!(run.status.verdict, Some(Verdict::Failed));
    assert_eq!(run.status.experiments[0].time_to_recover, Some(Duration::from_secs(1)));
}

#[test]
fn a_breach_that_begins_under_the_fault_and_is_complete_after_it_fails_the_run() {
    let mut run = injected();
    let mut seen = seen(&run, 0, 20);
    let victim = run.status.experiments[0].targets[0].uid.clone();
    seen.gone.insert(victim.clone());
    seen.pods.retain(|pod| pod.uid != victim);
    for second in 21..=48 {
        seen.probes[0].push(sample(second, Seen::Good("200".to_owned())));
        take(&mut run, &seen, second);
    }
    // Held until 50: two bad samples are no breach yet.
    for second in 49..=55 {
        seen.probes[0].push(sample(second, Seen::Bad("connection refused".to_owned())));
        take(&mut run, &seen, second);
    }
    for second in 56..=60 {
        seen.probes[0].push(sample(second, Seen::Good("200".to_owned())));
        take(&mut run, &seen, second);
    }
    assert_eq!(run.status.verdict, Some(Verdict::Failed), "{:#?}", run.status.experiments);
    assert_eq!(run.status.experiments[0].first_bad, Some(at(49)));
}

#[test]
fn a_probe_that_goes_blind_ends_the_fault() {
    let mut run = injected();
    let seen = seen(&run, 0, 20);
    take(&mut run, &seen, 23);
    assert_eq!(run.status.experiments[0].phase, ExperimentPhase::Injecting, "3.5 s are a breach's length");
    take(&mut run, &seen, 24);
    assert_eq!(run.status.experiments[0].phase, ExperimentPhase::Reverting);
    assert!(run.status.experiments[0].doubt.as_deref().unwrap().starts_with("blind: checkout saw nothing for 4s"));
}

#[test]
fn what_has_not_bitten_by_the_end_is_not_passed() {
    let mut run = injected();
    for second in 20..=51 {
        let mut seen = seen(&run, 0, second);
        seen.outcomes = [(
            run.status.experiments[0].targets[0].uid.clone(),
            Performed { at: at(20), reverting: false, outcome: Outcome::Refused("budget checkout".to_owned()) },
        )]
        .into();
        take(&mut run, &seen, second);
    }
    assert_eq!(run.status.verdict, Some(Verdict::Inconclusive), "{:#?}", run.status);
    let why = run.status.experiments[0].why.as_deref().unwrap();
    assert!(why.contains("refused: budget checkout"), "{why}");
    let target = &run.status.experiments[0].targets[0];
    assert_eq!(target.clean.as_ref().unwrap().what, "the pod is still there, and not marked for deletion");
}

#[test]
fn a_missing_right_is_refused_by_name() {
    let mut run = run(CHECKOUT);
    let mut seen = seen(&run, 0, 10);
    seen.permissions.values_mut().for_each(|answer| *answer = Answer::Denied(String::new()));
    take(&mut run, &seen, 10);
    assert_eq!(
        run.status.experiments[0].why.as_deref(),
        Some(
            "nothing was touched: refused: the service account default may not inject podKill.faults.gameday.dev; gameday allow shop --service-account default --faults podKill writes the role that grants it"
        )
    );
    assert_eq!(run.status.conditions[0].reason, "Refused");
}

#[test]
fn a_run_that_waits_behind_a_cord_starts_when_it_is_released() {
    let mut run = run(CHECKOUT);
    let mut seen = seen(&run, 0, 10);
    seen.cord = Some(Pulled { name: "stop".to_owned(), reason: "pager".to_owned(), by: Some("on-call".to_owned()) });
    take(&mut run, &seen, 10);
    assert_eq!(run.status.phase, RunPhase::Waiting);
    assert_eq!(run.status.why.as_deref(), Some("waiting: the cord stop is pulled by on-call: pager"));
    seen.cord = None;
    take(&mut run, &seen, 11);
    assert_eq!(run.status.phase, RunPhase::Running);
}

const SLOW: &str = r#"
hypothesis: Checkout answers while a pod is far away.
seed: 7
steadyState:
- {name: checkout, http: {url: "http://checkout.shop.svc/healthz"}, every: 1s, timeout: 500ms}
blastRadius: {targets: 1, percent: 50, hold: 5m}
baseline: 10s
experiments:
- name: far-away
  targets: {pods: {matchLabels: {app: checkout}}, choose: {count: 1}}
  fault: {network: {delay: 200ms}}
  hold: 30s
"#;

/// An agent that answers, and was made for this fault.
fn ready(fault: FaultKind, cannot: BTreeMap<String, String>) -> AgentSeen {
    AgentSeen::Ready { faults: BTreeSet::from([fault]), cannot }
}

/// What a node-held fault is armed with: everything in order but what is changed.
fn armed(change: impl Fn(&mut Observation)) -> (Run, Step) {
    armed_with(SLOW, change)
}

fn armed_with(spec: &str, change: impl Fn(&mut Observation)) -> (Run, Step) {
    let mut run = run(spec);
    let mut seen = seen(&run, 0, 20);
    for pod in &mut seen.pods {
        pod.node = Some("node1".to_owned());
    }
    seen.agents.insert("node1".to_owned(), ready(FaultKind::Network, BTreeMap::new()));
    change(&mut seen);
    let step = take(&mut run, &seen, 20);
    (run, step)
}

#[test]
fn a_fault_that_a_node_holds_is_armed_only_when_the_node_can() {
    let agent = |state: AgentSeen| move |seen: &mut Observation| drop(seen.agents.insert("node1".to_owned(), state.clone()));
    let cannot = BTreeMap::from([("network".to_owned(), "no nf_tables".to_owned())]);
    type Change = Box<dyn Fn(&mut Observation)>;
    let others = ["network with a partition", "files"].map(|what| (what.to_owned(), "not on this kernel".to_owned()));
    let cases: [(Change, ExperimentPhase, &str); 9] = [
        (Box::new(agent(ready(FaultKind::Network, others.into()))), ExperimentPhase::Injecting, ""),
        (Box::new(|_| {}), ExperimentPhase::Injecting, ""),
        // It lacks the rights for a network fault, and says that it cannot: another is on its way.
        (Box::new(agent(ready(FaultKind::Cpu, cannot.clone()))), ExperimentPhase::Arming, ""),
        (Box::new(|seen| seen.agents.clear()), ExperimentPhase::Arming, ""),
        (Box::new(agent(AgentSeen::Starting("its pod starts".to_owned()))), ExperimentPhase::Arming, ""),
        (Box::new(agent(AgentSeen::Cannot("no image".to_owned()))), ExperimentPhase::Judged, "no agent on node node1: no image"),
        (Box::new(agent(ready(FaultKind::Network, cannot))), ExperimentPhase::Judged, "cannot hold network: no nf_tables"),
        (
            Box::new(|seen| seen.pods.iter_mut().for_each(|pod| pod.host_network = true)),
            ExperimentPhase::Judged,
            "uses its node's own network",
        ),
        (
            Box::new(|seen| seen.networks = seen.pods.iter().map(|pod| pod.uid.clone()).collect()),
            ExperimentPhase::Judged,
            "another network fault is in force",
        ),
    ];
    for (change, phase, why) in cases {
        let (run, step) = armed(change);
        let status = &run.status.experiments[0];
        assert_eq!(status.phase, phase, "{why}: {:?}", status.why);
        assert!(status.why.as_deref().unwrap_or_default().contains(why), "{why}: {:?}", status.why);
        assert!(step.nodes.contains_key("node1"), "the node is asked for");
        let orders = step.actions.iter().filter(|action| matches!(action.what, What::Order(_))).count();
        assert!(orders <= usize::from(phase == ExperimentPhase::Injecting), "nothing is ordered before it can be held");
    }
}

#[test]
fn what_only_some_kernels_can_do_is_asked_of_the_node_before_anything_is_touched() {
    let cannot = |part: FaultPart| BTreeMap::from([(part.name().to_owned(), "no TAP devices".to_owned())]);
    for (fault, part) in [
        ("{network: {delay: 200ms, direction: Out}}", Some(FaultPart::Egress)),
        ("{network: {delay: 200ms, direction: Both}}", Some(FaultPart::Egress)),
        ("{network: {delay: 200ms}}", None),
        ("{network: {loss: 1, direction: Out}}", None),
        ("{network: {partition: true}}", Some(FaultPart::Partition)),
        ("{files: {path: /data, error: EIO}}", Some(FaultPart::FileErrors)),
        ("{files: {path: /data, error: EPERM, operations: [access]}}", Some(FaultPart::FileAccess)),
        ("{files: {path: /data, delay: 20ms}}", None),
    ] {
        let parsed: Fault = serde_saphyr::from_str(fault).unwrap();
        assert_eq!(parsed.parts(), part.into_iter().collect::<Vec<_>>(), "{fault}");
        let Some(part) = part.filter(|part| part.kind() == FaultKind::Network) else { continue };
        let (run, step) = armed_with(&SLOW.replace("{network: {delay: 200ms}}", fault), |seen| {
            seen.agents.insert("node1".to_owned(), ready(FaultKind::Network, cannot(part)));
        });
        let why = run.status.experiments[0].why.clone().unwrap_or_default();
        assert!(why.contains(&format!("node node1 cannot hold {}: no TAP devices", part.name())), "{fault}: {why}");
        assert!(step.actions.iter().all(|action| !matches!(action.what, What::Order(_))), "{fault}");
    }
}

#[test]
fn what_a_node_says_of_its_order_is_what_counts() {
    use crate::api::{InjectionPhase, InjectionSpec};
    let seen_as = |phase, bite: Option<&str>, clean: Option<&str>| InjectionSeen {
        phase,
        bite: bite.map(str::to_owned),
        clean: clean.map(str::to_owned),
        why: Some("the reason".to_owned()),
    };
    let cases = [
        (None, ExperimentPhase::Injecting),
        (Some(seen_as(InjectionPhase::Pending, None, None)), ExperimentPhase::Injecting),
        (Some(seen_as(InjectionPhase::Holding, None, None)), ExperimentPhase::Injecting),
        (Some(seen_as(InjectionPhase::Holding, Some("7 packets hit"), None)), ExperimentPhase::Holding),
        (Some(seen_as(InjectionPhase::Lost, None, None)), ExperimentPhase::Reverting),
        (Some(seen_as(InjectionPhase::Lost, Some("7"), Some("gone"))), ExperimentPhase::Judged),
        (Some(seen_as(InjectionPhase::Refused, None, None)), ExperimentPhase::Judged),
        // Nobody of this run has told it to end.
        (Some(seen_as(InjectionPhase::Cleared, Some("7"), None)), ExperimentPhase::Reverting),
    ];
    for (injection, phase) in cases {
        let (mut run, _) = armed(|_| {});
        let target = run.status.experiments[0].targets[0].uid.clone();
        let mut seen = seen(&run, 0, 21);
        if let Some(injection) = &injection {
            seen.injections.insert(InjectionSpec::name("run-uid", "far-away", &target), injection.clone());
        }
        take(&mut run, &seen, 21);
        assert_eq!(run.status.experiments[0].phase, phase, "{injection:?}: {:?}", run.status.experiments[0].doubt);
    }
}

#[test]
fn a_fault_between_two_containers_is_still_held() {
    use crate::api::{InjectionPhase, InjectionSpec};
    let (mut run, _) = armed(|_| {});
    let target = run.status.experiments[0].targets[0].uid.clone();
    let name = InjectionSpec::name("run-uid", "far-away", &target);
    let phases = [InjectionPhase::Holding, InjectionPhase::Pending, InjectionPhase::Holding];
    for (second, phase) in (21..).zip(phases) {
        let mut seen = seen(&run, 0, second);
        let bite = Some("7 packets hit".to_owned());
        seen.injections.insert(name.clone(), InjectionSeen { phase, bite, clean: None, why: None });
        take(&mut run, &seen, second);
        assert_eq!(run.status.experiments[0].phase, ExperimentPhase::Holding, "{phase:?}: {:?}", run.status.experiments[0].doubt);
        assert!(run.status.experiments[0].doubt.is_none(), "{phase:?}");
    }
}
