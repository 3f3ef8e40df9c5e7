use std::time::Duration;

use kube::api::ListParams;

use crate::lab::{Lab, OPERATOR_NAMESPACE, eventually, gameday, kubectl, kubectl_apply, runtime};

#[test]
fn the_manifests_run_as_two_restricted_pods_and_one_of_them_leads() {
    runtime().block_on(async {
        let lab = Lab::new("install").await;
        let manifests = gameday(&["install", "--image", "lab.test/gameday:1"]);
        kubectl_apply(&String::from_utf8_lossy(&manifests.stdout));
        kubectl(&["-n", OPERATOR_NAMESPACE, "rollout", "status", "deployment/gameday", "--timeout=90s"]);
        let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(lab.client.clone(), OPERATOR_NAMESPACE);
        let names: Vec<String> =
            pods.list(&ListParams::default()).await.unwrap().into_iter().filter_map(|pod| pod.metadata.name).collect();
        let leader = eventually("a pod leads", Duration::from_secs(30), async || {
            crate::leaders::holder(&lab.client).await.filter(|holder| names.iter().any(|name| name == holder))
        })
        .await;
        let metrics =
            kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{leader}:8080/proxy/metrics")]);
        assert!(metrics.contains("gameday_leader 1"), "{metrics}");
        // What the operator may do is what the manifests say: no secrets, no wildcard.
        let may = |verb: &str, what: &str| {
            let account = format!("--as=system:serviceaccount:{OPERATOR_NAMESPACE}:gameday");
            std::process::Command::new("kubectl")
                .args(["auth", "can-i", verb, what, &account, "-A", "-q"])
                .status()
                .unwrap()
                .success()
        };
        assert!(may("delete", "pods"));
        for (verb, what) in
            [("get", "secrets"), ("create", "pods"), ("get", "configmaps"), ("delete", "nodes"), ("delete", "deployments.apps")]
        {
            assert!(!may(verb, what), "the operator may {verb} {what}");
        }
        let empty = gameday(&["install", "--replicas", "0"]);
        kubectl_apply(&String::from_utf8_lossy(&empty.stdout));
        eventually("the operator's pods are gone", Duration::from_secs(60), async || {
            pods.list(&ListParams::default()).await.ok()?.items.is_empty().then_some(())
        })
        .await;
    });
}
