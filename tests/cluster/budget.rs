use std::time::{Duration, Instant};

use gameday::api::{ExperimentPhase, Verdict};

use crate::lab::{Lab, eventually, kubectl_apply, runtime};
use crate::passes::LOSE_A_POD;

const BUDGET: &str = r#"
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: checkout, namespace: NAMESPACE}
spec: {minAvailable: 3, selector: {matchLabels: {app: checkout}}}
"#;

#[test]
fn a_budget_that_allows_no_disruption_is_shown_within_two_seconds_and_kills_nobody() {
    runtime().block_on(async {
        let mut lab = Lab::new("budget").await;
        let address = lab.shop("checkout", 3, &[]).await;
        kubectl_apply(&BUDGET.replace("NAMESPACE", &lab.namespace));
        let before = lab.uids("checkout").await;
        lab.operator("one");
        lab.apply(&LOSE_A_POD.replace("ADDRESS", &address).replace("podKill: {gracePeriod: 0s}", "podEvict: {}")).await;
        let name = lab.run_of("checkout").await;
        lab.until_phase(&name, ExperimentPhase::Injecting).await;
        let injecting = Instant::now();
        let runs = lab.runs();
        let problem = eventually("the refusal is shown", Duration::from_secs(3), async || {
            let status = runs.get(&name).await.ok()?.status?;
            status.experiments[0].targets.first()?.problem.clone().filter(|problem| problem.starts_with("refused"))
        })
        .await;
        assert!(injecting.elapsed() <= Duration::from_secs(2), "{:?}", injecting.elapsed());
        assert!(problem.contains("checkout") && problem.contains("disruption"), "names the budget: {problem}");

        let status = lab.until_finished(&name).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive), "{status:#?}");
        assert!(status.why.as_deref().unwrap().contains("refused"), "{:?}", status.why);
        assert_eq!(lab.uids("checkout").await, before);
    });
}

#[test]
fn an_eviction_that_the_budget_allows_bites_and_passes() {
    runtime().block_on(async {
        let mut lab = Lab::new("evict").await;
        let address = lab.shop("checkout", 3, &[]).await;
        kubectl_apply(&BUDGET.replace("NAMESPACE", &lab.namespace).replace("minAvailable: 3", "minAvailable: 2"));
        lab.operator("one");
        lab.apply(&LOSE_A_POD.replace("ADDRESS", &address).replace("podKill: {gracePeriod: 0s}", "podEvict: {}")).await;
        let name = lab.run_of("checkout").await;
        let status = lab.until_finished(&name).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
    });
}
