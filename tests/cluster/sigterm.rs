use std::time::Duration;

use gameday::api::{ExperimentPhase, Verdict};

use crate::lab::{Lab, eventually, runtime};
use crate::passes::LOSE_A_POD;

#[test]
fn a_pod_that_ignores_sigterm_has_not_bitten_until_it_is_gone() {
    runtime().block_on(async {
        let mut lab = Lab::new("sigterm").await;
        let address = lab.shop("checkout", 3, &["--ignore-sigterm"]).await;
        lab.operator("one");
        // The pod's own grace period, 30 s, which this application sits out.
        let game_day = LOSE_A_POD.replace("podKill: {gracePeriod: 0s}", "podKill: {}").replace("hold: 5s", "hold: 45s");
        lab.apply(&game_day.replace("ADDRESS", &address)).await;
        let name = lab.run_of("checkout").await;
        let run = lab.until_phase(&name, ExperimentPhase::Injecting).await;
        let victim = run.status.unwrap().experiments[0].targets[0].clone();

        let (runs, pods) = (lab.runs(), lab.pods());
        eventually("the run says that it has not bitten", Duration::from_secs(5), async || {
            let target = runs.get(&name).await.ok()?.status?.experiments[0].targets[0].clone();
            target.problem.filter(|problem| problem.contains("not bitten yet: marked for deletion"))
        })
        .await;
        // Ten seconds after the delete it still serves.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let pod = pods.get(&victim.name).await.expect("the pod is still there");
        let ip = pod.status.and_then(|status| status.pod_ip).expect("a pod has an address");
        let connected = tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect((ip.as_str(), 8080))).await;
        assert!(matches!(connected, Ok(Ok(_))), "the pod still serves");
        let status = lab.run(&name).await.status.unwrap();
        assert_eq!(status.experiments[0].phase, ExperimentPhase::Injecting);
        assert!(status.experiments[0].targets[0].bite.is_none());

        let status = lab.until_finished(&name).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        let target = &status.experiments[0].targets[0];
        let took = target.bite.as_ref().unwrap().at.duration_since(target.recorded).as_secs_f64();
        assert!(took >= 28.0, "it bit after {took} s, with 30 s of grace");
        assert!(pods.get_opt(&victim.name).await.unwrap().is_none());
    });
}
