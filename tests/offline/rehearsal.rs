//! The pretended world: scenarios as text, each call site crashed in turn, seeds by the thousand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gameday::api::{Duration, Verdict};
use gameday::rehearsal::scenario::{self, Scenario};
use gameday::rehearsal::{Misfortune, Options, Planned, Rehearsed};

use crate::chance;

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline/scenarios");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    found.sort();
    found
}

#[test]
fn every_scenario_unfolds_as_written_down() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for path in scenarios() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let read = scenario::read(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|why| panic!("{name}: {why}"));
        let (unfolded, rehearsed) = scenario::unfold(&read, &Options::default()).unwrap_or_else(|why| panic!("{name}: {why}"));
        for violation in &rehearsed.violations {
            wrong.push(format!("{name}: {violation}"));
        }
        let golden = path.with_extension("txt");
        if update {
            std::fs::write(&golden, &unfolded).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != unfolded {
            wrong.push(format!("{name} unfolds otherwise than written down (UPDATE=1 rewrites it):\n{unfolded}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One game day for each fault, one that repeats, and a graph; short, so that each call can be crashed in turn.
const GAMEDAYS: [(&str, &str); 8] = [
    (
        "podKill",
        "[{name: kill, targets: {pods: {matchLabels: {app: checkout}}, choose: {count: 2}}, fault: {podKill: {gracePeriod: 0s}}, hold: 3s}]",
    ),
    (
        "podKill with grace",
        "[{name: ask, targets: {pods: {matchLabels: {app: checkout}}}, fault: {podKill: {}}, hold: 3s}]",
    ),
    (
        "podEvict",
        "[{name: evict, targets: {pods: {matchLabels: {app: checkout}}, choose: {percent: 40}}, fault: {podEvict: {}}, hold: 3s}]",
    ),
    (
        "repeated",
        "[{name: again, targets: {pods: {matchLabels: {app: checkout}}}, fault: {podKill: {gracePeriod: 0s, every: 1s}}, hold: 8s}]",
    ),
    (
        "scale",
        "[{name: shrink, targets: {workload: {kind: Deployment, name: checkout}}, fault: {scale: {replicas: 3}}, hold: 3s}]",
    ),
    ("cordon", "[{name: close, targets: {nodes: {matchLabels: {pool: shop}}}, fault: {cordon: {}}, hold: 3s}]"),
    (
        "held",
        "[{name: slow, targets: {pods: {matchLabels: {app: checkout}}}, fault: {network: {delay: 50ms}}, hold: 3s},
          {name: busy, targets: {pods: {matchLabels: {app: checkout}}, choose: {count: 2}}, fault: {cpu: {percent: 50}}, hold: 3s}]",
    ),
    (
        "graph",
        "[{name: kill, targets: {pods: {matchLabels: {app: checkout}}}, fault: {podKill: {gracePeriod: 0s}}, hold: 2s, after: []},
          {name: close, targets: {nodes: {matchLabels: {pool: shop}}}, fault: {cordon: {}}, hold: 3s, after: []},
          {name: shrink, targets: {workload: {kind: StatefulSet, name: store}}, fault: {scale: {percent: 50}}, hold: 3s, after: [kill]},
          {name: evict, targets: {pods: {matchLabels: {app: checkout}}}, fault: {podEvict: {every: 1s}}, hold: 3s, after: [close, shrink]}]",
    ),
];

fn short(experiments: &str) -> Scenario {
    let text = format!(
        "
kind: GameDay
apiVersion: gameday.dev/v1alpha1
metadata: {{name: short, namespace: shop}}
spec:
  hypothesis: Checkout answers.
  seed: 7
  baseline: 1s
  recovery: 10s
  blastRadius: {{targets: 3, percent: 50}}
  steadyState:
  - {{name: checkout, http: {{url: 'http://checkout.shop.svc/'}}, every: 1s, timeout: 300ms, breachAfter: 2}}
  experiments: {experiments}
---
kind: Deployment
metadata: {{name: checkout}}
spec: {{replicas: 5, template: {{metadata: {{labels: {{app: checkout}}}}}}}}
---
kind: StatefulSet
metadata: {{name: store}}
spec: {{replicas: 4, template: {{metadata: {{labels: {{app: store}}}}}}}}
---
kind: Rehearsal
apps: {{checkout: {{start: 1s}}, store: {{start: 500ms}}}}
"
    );
    scenario::read(&text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

fn unfold(scenario: &Scenario, options: &Options) -> (String, Rehearsed) {
    scenario::unfold(scenario, options).unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn the_short_game_days_pass_when_nothing_goes_wrong() {
    for (name, experiments) in GAMEDAYS {
        let (text, rehearsed) = unfold(&short(experiments), &Options::default());
        assert!(rehearsed.violations.is_empty(), "{name}\n{text}");
        assert_eq!(rehearsed.run.status.unwrap().verdict, Some(Verdict::Passed), "{name}\n{text}");
    }
}

#[test]
fn a_run_crashed_at_any_call_keeps_every_promise() {
    let mut wrong = Vec::new();
    let mut rehearsals = 0;
    for (name, experiments) in GAMEDAYS {
        let scenario = short(experiments);
        let (_, undisturbed) = unfold(&scenario, &Options::default());
        for call in 1..=undisturbed.calls {
            for what in [
                Misfortune::CrashBefore,
                Misfortune::CrashAfter,
                Misfortune::ReplyLost,
                Misfortune::Conflict,
                Misfortune::NoAnswer,
            ] {
                let planned = vec![Planned { at: None, call: Some(call), what }];
                let (text, rehearsed) = unfold(&scenario, &Options { planned: planned.clone(), ..Options::default() });
                rehearsals += 1;
                if !rehearsed.violations.is_empty() {
                    wrong.push(format!("{name}, {planned:?}\n{text}"));
                }
            }
        }
    }
    println!("{rehearsals} rehearsals, one misfortune each");
    assert!(wrong.is_empty(), "{} of {rehearsals}; the first:\n{}", wrong.len(), wrong[..wrong.len().min(3)].join("\n"));
}

/// Seeds that the test draws from; `GAMEDAY_SEEDS` sets another number.
const SEEDS: u64 = 1_000;

fn rehearse_seed(seed: u64) -> (String, Rehearsed) {
    unfold(&chance::scenario(seed), &Options { seed, misfortune: true, ..Options::default() })
}

#[test]
fn thousands_of_seeds_keep_every_promise() {
    let count = std::env::var("GAMEDAY_SEEDS").map_or(SEEDS, |text| text.parse().expect("GAMEDAY_SEEDS is a number"));
    let started = std::time::Instant::now();
    let mut simulated = Duration::ZERO;
    let mut verdicts = BTreeMap::new();
    let mut wrong = Vec::new();
    for seed in 0..count {
        let (_, rehearsed) = rehearse_seed(seed);
        simulated = simulated.saturating_add(rehearsed.simulated);
        let status = rehearsed.run.status.unwrap();
        *verdicts
            .entry(status.verdict.map_or("none", |verdict| match verdict {
                Verdict::Passed => "passed",
                Verdict::Failed => "failed",
                Verdict::Inconclusive if status.why.as_deref().is_some_and(|why| why.contains("refused")) => "refused",
                Verdict::Inconclusive => "inconclusive",
            }))
            .or_insert(0) += 1;
        if let Some(violation) = rehearsed.violations.first() {
            wrong.push(format!("{violation}\n  GAMEDAY_SEED={seed} cargo test --test offline replay_one_seed -- --nocapture"));
        }
    }
    let took = started.elapsed().as_secs_f64();
    let hours = simulated.as_millis() as f64 / 3_600_000.0;
    println!(
        "{count} seeds in {took:.1} s: {:.0} seeds a minute, {:.2} simulated hours a second; {verdicts:?}",
        count as f64 / took * 60.0,
        hours / took
    );
    assert!(wrong.is_empty(), "{} of {count} seeds:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

#[test]
fn replay_one_seed() {
    let seed = std::env::var("GAMEDAY_SEED").map_or(0, |text| text.parse().expect("GAMEDAY_SEED is a number"));
    let scenario = chance::scenario(seed);
    println!("{}", serde_json::to_string_pretty(&scenario.gameday).unwrap());
    for other in &scenario.others {
        println!("{other}");
    }
    let (text, rehearsed) = rehearse_seed(seed);
    println!("{text}");
    assert_eq!(text, rehearse_seed(seed).0, "the same seed unfolds in the same way");
    assert!(rehearsed.violations.is_empty(), "{:#?}", rehearsed.violations);
}
