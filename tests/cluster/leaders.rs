use std::time::Duration;

use gameday::api::ExperimentPhase;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};

use crate::lab::{Lab, OPERATOR_NAMESPACE, PATIENCE, eventually, runtime};
use crate::passes::LOSE_A_POD;

/// Who leads, from the Lease.
pub async fn holder(client: &Client) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    leases.get("gameday").await.ok()?.spec?.holder_identity.filter(|name| !name.is_empty())
}

#[test]
fn a_leader_stopped_for_thirty_seconds_and_continued_makes_no_second_victim_set() {
    runtime().block_on(async {
        let mut lab = Lab::new("leaders").await;
        let address = lab.shop("checkout", 3, &[]).await;
        let before = lab.uids("checkout").await;
        let one = lab.operator("one");
        let two = lab.operator("two");
        let client = lab.client.clone();
        let leader =
            eventually("somebody leads", PATIENCE, async || holder(&client).await.filter(|name| name == "one" || name == "two"))
                .await;
        let (leader, other) = if leader == "one" { (one, two) } else { (two, one) };

        lab.apply(&LOSE_A_POD.replace("ADDRESS", &address).replace("baseline: 2s", "baseline: 4s")).await;
        let run = lab.run_of("checkout").await;
        lab.until_phase(&run, ExperimentPhase::Baseline).await;
        lab.signal(leader, "-STOP");
        tokio::time::sleep(Duration::from_secs(30)).await;
        lab.signal(leader, "-CONT");
        let status = lab.until_finished(&run).await.status.unwrap();
        assert_eq!(status.experiments[0].targets.len(), 1, "{status:#?}");
        let after = lab.uids("checkout").await;
        let killed: Vec<&String> = before.iter().filter(|uid| !after.contains(uid)).collect();
        assert_eq!(killed, [&status.experiments[0].targets[0].uid], "one victim, the recorded one");
        eventually("the old leader has stepped down", PATIENCE, async || {
            (holder(&client).await? == if other == one { "one" } else { "two" }).then_some(())
        })
        .await;
        assert!(lab.ended(other).is_none(), "the new leader lives");
    });
}
