//! Whom a network fault is about, followed as Services, pods and names change.

use std::process::Command;
use std::time::Duration;

use gameday::api::Verdict;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::held::{holding_with, nothing_is_left, show};
use crate::lab::{Lab, PATIENCE, eventually, kubectl, kubectl_apply, never, runtime};

/// Whether a connection can be made from within a process's network, and how long that took.
fn reaches(pid: i32, address: &str, port: u16) -> Option<Duration> {
    let start = std::time::Instant::now();
    let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
    let done = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-n", "timeout", "0.6", "bash", "-c", &connect])
        .stderr(std::process::Stdio::null())
        .status()
        .expect("nsenter runs");
    done.success().then(|| start.elapsed())
}

async fn pods_of(lab: &Lab, app: &str) -> Vec<Pod> {
    let found = lab.pods().list(&ListParams::default().labels(&format!("app={app}"))).await.expect("pods are listed");
    let running = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
    found.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && running(pod)).collect()
}

fn ip(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).expect("an address")
}

/// Another pod takes the place of the only one of this name.
async fn replaced(lab: &Lab, app: &str) -> Pod {
    let old = pods_of(lab, app).await.remove(0);
    lab.pods().delete(&old.name_any(), &Default::default()).await.expect("the pod is deleted");
    eventually("another pod has taken its place", PATIENCE, async || {
        let pod = pods_of(lab, app).await.into_iter().find(|pod| pod.uid() != old.uid())?;
        let ready = pod.status.as_ref()?.conditions.as_ref()?.iter().any(|is| is.type_ == "Ready" && is.status == "True");
        ready.then_some(pod)
    })
    .await
}

#[test]
fn a_partition_from_one_service_follows_its_pods_and_leaves_all_else_alone() {
    runtime().block_on(async {
        let fault = "{network: {partition: true, to: [{service: payments}]}}";
        let target = holding_with("aim-service", fault, "60s", async |lab, pid| {
            if pid.is_none() {
                lab.shop("payments", 1, &[]).await;
                lab.shop("ledger", 1, &[]).await;
            }
            if let Some(pid) = pid {
                reaches(pid, &lab.address("payments"), 80);
            }
        })
        .await;
        let lab = &target.lab;
        let (payments, ledger) = (lab.address("payments"), lab.address("ledger"));
        let first = ip(&pods_of(lab, "payments").await[0]);
        assert_eq!(reaches(target.pid, &payments, 80), None, "the Service");
        assert_eq!(reaches(target.pid, &first, 8080), None, "its endpoint");
        assert!(reaches(target.pid, &ledger, 80).is_some(), "another Service");
        let second = ip(&replaced(lab, "payments").await);
        assert_ne!(first, second);
        eventually("the new pod is cut off too", Duration::from_secs(2), async || {
            reaches(target.pid, &second, 8080).is_none().then_some(())
        })
        .await;
        never("the fault lets go", Duration::from_secs(3), async || {
            reaches(target.pid, &second, 8080).is_some() || reaches(target.pid, &payments, 80).is_some()
        })
        .await;
        assert!(reaches(target.pid, &ledger, 80).is_some(), "another Service");
        kubectl(&[
            "-n",
            &lab.namespace,
            "patch",
            "gdr",
            &target.run,
            "--type=merge",
            "-p",
            r#"{"spec":{"stop":{"reason":"seen"}}}"#,
        ]);
        eventually("all is well again", Duration::from_secs(2), async || reaches(target.pid, &payments, 80)).await;
        show("partition", &lab.until_finished(&target.run).await.status.unwrap());
        nothing_is_left(&target).await;
    });
}

#[test]
fn pods_that_join_are_hit_and_a_label_taken_off_is_release() {
    runtime().block_on(async {
        let fault = "{network: {partition: true, to: [{pods: {matchLabels: {app: payments}}}]}}";
        let target = holding_with("aim-pods", fault, "60s", async |lab, pid| {
            if pid.is_none() {
                lab.shop("payments", 1, &[]).await;
            }
            if let Some(pid) = pid {
                reaches(pid, &ip(&pods_of(lab, "payments").await[0]), 8080);
            }
        })
        .await;
        let lab = &target.lab;
        kubectl(&["-n", &lab.namespace, "scale", "deployment", "payments", "--replicas=2"]);
        let both = eventually("there are two", PATIENCE, async || {
            let pods = pods_of(lab, "payments").await;
            (pods.len() == 2).then_some(pods)
        })
        .await;
        for pod in &both {
            eventually("it is cut off", Duration::from_secs(2), async || {
                reaches(target.pid, &ip(pod), 8080).is_none().then_some(())
            })
            .await;
        }
        kubectl(&["-n", &lab.namespace, "label", "pod", &both[0].name_any(), "app=other", "--overwrite"]);
        eventually("it is reached again", Duration::from_secs(2), async || reaches(target.pid, &ip(&both[0]), 8080)).await;
        assert_eq!(reaches(target.pid, &ip(&both[1]), 8080), None);
        kubectl(&["-n", &lab.namespace, "delete", "gdr", &target.run]);
        nothing_is_left(&target).await;
    });
}

#[test]
fn a_name_is_asked_for_as_the_target_would_and_again() {
    runtime().block_on(async {
        // Short: the search list of the target's resolv.conf is what makes it a name.
        let fault = "{network: {delay: 150ms, to: [{dns: payments-pods}]}}";
        let target = holding_with("aim-dns", fault, "60s", async |lab, pid| {
            if pid.is_none() {
                lab.shop("payments", 1, &[]).await;
                kubectl_apply(&format!(
                    "{{apiVersion: v1, kind: Service, metadata: {{name: payments-pods, namespace: {}}}, spec: {{clusterIP: None, selector: {{app: payments}}, ports: [{{port: 8080}}]}}}}",
                    lab.namespace
                ));
            }
            if let Some(pid) = pid {
                reaches(pid, &ip(&pods_of(lab, "payments").await[0]), 8080);
            }
        })
        .await;
        let lab = &target.lab;
        let late = |pod: &Pod| reaches(target.pid, &ip(pod), 8080).is_some_and(|took| took >= Duration::from_millis(150));
        assert!(late(&pods_of(lab, "payments").await[0]));
        let second = replaced(lab, "payments").await;
        // The DNS may be believed for five seconds here, and is asked every five.
        eventually("the new address is late too", Duration::from_secs(15), async || late(&second).then_some(())).await;
        kubectl(&["-n", &lab.namespace, "patch", "gdr", &target.run, "--type=merge", "-p", r#"{"spec":{"stop":{"reason":"seen"}}}"#]);
        let status = lab.until_finished(&target.run).await.status.unwrap();
        show("dns", &status);
        nothing_is_left(&target).await;
    });
}

#[test]
fn a_name_in_the_targets_hosts_file_needs_no_dns() {
    runtime().block_on(async {
        let fault = "{network: {delay: 150ms, to: [{dns: ledger}]}}";
        let target = holding_with("aim-hosts", fault, "60s", async |lab, pid| {
            if pid.is_none() {
                lab.shop("payments", 1, &[]).await;
                let address = ip(&pods_of(lab, "payments").await[0]);
                let aliases = format!(
                    r#"{{"spec": {{"template": {{"spec": {{"hostAliases": [{{"ip": "{address}", "hostnames": ["ledger"]}}]}}}}}}}}"#
                );
                kubectl(&["-n", &lab.namespace, "patch", "deployment", "checkout", "--type=merge", "-p", &aliases]);
                kubectl(&["-n", &lab.namespace, "rollout", "status", "deployment", "checkout", "--timeout=60s"]);
            }
            if let Some(pid) = pid {
                reaches(pid, &ip(&pods_of(lab, "payments").await[0]), 8080);
            }
        })
        .await;
        let address = ip(&pods_of(&target.lab, "payments").await[0]);
        let took = reaches(target.pid, &address, 8080).expect("it is reached");
        assert!(took >= Duration::from_millis(150), "{took:?}");
        kubectl(&["-n", &target.lab.namespace, "delete", "gdr", &target.run]);
        nothing_is_left(&target).await;
    });
}

#[test]
fn a_name_that_nobody_knows_is_refused_on_the_node() {
    runtime().block_on(async {
        let mut lab = Lab::new("aim-nobody").await;
        let address = lab.shop("checkout", 2, &[]).await;
        lab.operator("one");
        let fault = "{network: {delay: 100ms, to: [{dns: nobody.invalid.}]}}";
        lab.apply(&crate::held::game_day(&address, fault, "20s")).await;
        let run = lab.run_of("held").await;
        let status = lab.until_finished(&run).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive), "{status:#?}");
        assert!(status.why.as_deref().unwrap().contains("nobody.invalid. is not known in the DNS"), "{:?}", status.why);
    });
}
