use gameday::api::{ExperimentPhase, Verdict};

use crate::lab::{Lab, gameday, kubectl, runtime, text};

pub const LOSE_A_POD: &str = r#"
apiVersion: gameday.dev/v1alpha1
kind: GameDay
metadata: {name: checkout, namespace: NAMESPACE}
spec:
  hypothesis: Checkout answers within 300 ms while a pod dies.
  serviceAccountName: breaker
  seed: 7
  steadyState:
  - name: checkout
    http: {url: "http://ADDRESS/healthz"}
    every: 200ms
    timeout: 500ms
    expect: {status: [200], latency: 300ms}
    breachAfter: 5
  blastRadius: {targets: 1, percent: 34, hold: 1m}
  baseline: 2s
  recovery: 30s
  experiments:
  - name: lose-a-pod
    targets: {pods: {matchLabels: {app: checkout}}, choose: {count: 1}}
    fault: {podKill: {gracePeriod: 0s}}
    hold: 5s
"#;

#[test]
fn a_game_day_kills_exactly_the_chosen_pod_and_passes_with_evidence() {
    runtime().block_on(async {
        let mut lab = Lab::new("passes").await;
        let address = lab.shop("checkout", 3, &[]).await;
        let before = lab.uids("checkout").await;
        lab.operator("one");
        lab.apply(&LOSE_A_POD.replace("ADDRESS", &address)).await;
        let name = lab.run_of("checkout").await;
        let run = lab.until_finished(&name).await;

        let status = run.status.as_ref().unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        let experiment = &status.experiments[0];
        assert_eq!((experiment.phase, experiment.targets.len()), (ExperimentPhase::Judged, 1));
        let target = &experiment.targets[0];
        assert!(target.bite.is_some() && target.clean.is_some(), "{target:#?}");
        let after = lab.uids("checkout").await;
        let killed: Vec<&String> = before.iter().filter(|uid| !after.contains(uid)).collect();
        assert_eq!(killed, [&target.uid], "exactly the recorded pod is gone");

        let line = kubectl(&["-n", &lab.namespace, "get", "gdr", &name, "--no-headers"]);
        for words in ["Finished", "Passed", "1/1 hit", "the experiment passed"] {
            assert!(line.contains(words), "{words} is not in: {line}");
        }
        let events =
            kubectl(&["-n", &lab.namespace, "get", "events", "-o", "custom-columns=KIND:.involvedObject.kind,REASON:.reason"]);
        assert!(events.lines().any(|line| line.starts_with("GameDay ")), "events on the game day:\n{events}");

        let report = gameday(&["-n", &lab.namespace, "report", &name, "-o", "json"]);
        let json: serde_json::Value =
            serde_json::from_slice(&report.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&report)));
        assert!(json.to_string().contains(&target.uid));
    });
}

#[test]
fn the_same_seed_and_candidates_choose_the_same_victim_as_plan_says() {
    runtime().block_on(async {
        let mut lab = Lab::new("plan").await;
        let address = lab.shop("checkout", 3, &[]).await;
        let file = std::env::temp_dir().join(format!("gameday-plan-{}.yaml", std::process::id()));
        std::fs::write(&file, LOSE_A_POD.replace("ADDRESS", &address).replace("NAMESPACE", &lab.namespace)).unwrap();
        let file = file.to_str().unwrap();
        let plan = gameday(&["plan", file]);
        assert_eq!(plan.status.code(), Some(0), "{}", text(&plan));
        lab.operator("one");
        let run = gameday(&["run", file]);
        assert_eq!(run.status.code(), Some(0), "{}", text(&run));
        let name = lab.run_of("checkout").await;
        let status = lab.run(&name).await.status.unwrap();
        let victim = &status.experiments[0].targets[0].name;
        assert!(text(&plan).contains(victim), "{victim} is not in the plan:\n{}", text(&plan));
    });
}
