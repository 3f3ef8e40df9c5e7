//! The hands against an API server of fifty lines: what is sent, and what is made of the answers. And what is read of
//! objects.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};

use crate::api::{ANNOTATION_FENCE, Duration, LABEL_HELD_BY, LABEL_SET_REPLICAS, LABEL_UNDO_REPLICAS, TargetKind};
use crate::engine::liveness::{Asks, Liveness};
use crate::engine::{Action, Outcome, RunId, TargetId, What};

use super::hands::{self, Hands};
use super::objects;

/// Method, path without its query, body.
type Asked = (String, String, Value);
type Answers = Box<dyn Fn(&str, usize) -> (u16, Value) + Send + Sync>;

/// Answers by method and by how often that method was asked before.
struct Server {
    client: Client,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(answers: impl Fn(&str, usize) -> (u16, Value) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut config = kube::Config::new(url.parse().unwrap());
        config.default_retry = false;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answers): (_, Answers) = (Arc::clone(&asked), Box::new(answers));
        let answers = Arc::new(answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
                std::thread::spawn(move || serve(stream, &log, &answers));
            }
        });
        Server { client: Client::try_from(config).unwrap(), asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn patches(&self) -> Vec<Value> {
        self.asked().into_iter().filter(|(method, _, _)| method == "PATCH").map(|(_, _, body)| body).collect()
    }

    async fn perform(&self, kind: TargetKind, what: What) -> Outcome {
        let target = TargetId { kind, name: "web".to_owned(), uid: "chosen".to_owned() };
        let action = Action { experiment: "one".to_owned(), target, what, latest_end: Timestamp::MAX };
        hands::perform(Hands { client: &self.client, agents: "gameday-agents", may_act: &|| true }, &run(), &action).await
    }
}

/// Answers the requests of one connection, until the client hangs up.
fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, answers: &Answers) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
        }
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let mut words = head.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.split('?').next()?.to_owned());
        let mut log = log.lock().ok()?;
        let before = log.iter().filter(|(asked, _, _)| *asked == method).count();
        let (status, answer) = answers(&method, before);
        log.push((method, path, serde_json::from_slice(&body).unwrap_or(Value::Null)));
        drop(log);
        let answer = answer.to_string();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
        stream.write_all((head + &answer).as_bytes()).ok()?;
    }
}

fn run() -> RunId {
    RunId { namespace: "shop".to_owned(), name: "run-1".to_owned(), uid: "ours".to_owned() }
}

fn refusal(code: u16, reason: &str, message: &str, cause: Option<(&str, &str)>) -> Value {
    let causes: Vec<Value> = cause.iter().map(|(reason, message)| json!({"reason": reason, "message": message})).collect();
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message,
        "details": {"causes": causes},
    })
}

fn pod(uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "uid": uid}, "spec": {}})
}

fn deployment(replicas: i32, version: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "uid": "chosen", "resourceVersion": version, "labels": labels},
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {}}},
    })
}

fn held_by(uid: &str) -> Value {
    json!({LABEL_HELD_BY: uid, LABEL_UNDO_REPLICAS: "3", LABEL_SET_REPLICAS: "1", "team": "shop"})
}

#[tokio::test]
async fn an_eviction_names_the_uid_where_the_api_server_reads_it() {
    let server = Server::start(|_, _| (201, json!({"kind": "Status", "status": "Success"})));
    assert_eq!(server.perform(TargetKind::Pod, What::Evict).await, Outcome::Done);
    let (_, path, body) = server.asked().remove(0);
    assert_eq!(path, "/api/v1/namespaces/shop/pods/web/eviction");
    assert_eq!(body["deleteOptions"]["preconditions"]["uid"], "chosen", "{body}");
}

#[tokio::test]
async fn a_budget_that_refuses_is_quoted_and_not_asked_again() {
    let budget = "The disruption budget web needs 3 healthy pods and has 3 currently";
    let server = Server::start(move |_, _| {
        (429, refusal(429, "TooManyRequests", "Cannot evict pod.", Some(("DisruptionBudget", budget))))
    });
    let outcome = server.perform(TargetKind::Pod, What::Evict).await;
    assert_eq!(outcome, Outcome::Refused(format!("Cannot evict pod. {budget}")));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn an_api_server_that_is_too_busy_has_not_refused() {
    let server = Server::start(|_, _| (429, refusal(429, "TooManyRequests", "too many requests", None)));
    assert!(matches!(server.perform(TargetKind::Pod, What::Evict).await, Outcome::Failed(_)));
}

#[tokio::test]
async fn a_pod_of_the_same_name_is_not_killed_for_the_one_that_was_chosen() {
    let server = Server::start(|method, _| match method {
        "DELETE" => (409, refusal(409, "Conflict", "the UID in the precondition does not match", None)),
        _ => (200, pod("another")),
    });
    assert_eq!(server.perform(TargetKind::Pod, What::Kill { grace_period: None }).await, Outcome::Done);
    let (method, _, body) = server.asked().remove(0);
    assert_eq!((method.as_str(), &body["preconditions"]["uid"]), ("DELETE", &json!("chosen")));
}

#[tokio::test]
async fn a_kill_that_conflicts_while_the_pod_lives_is_not_done() {
    let server = Server::start(|method, _| match method {
        "DELETE" => (409, refusal(409, "Conflict", "the object has been modified", None)),
        _ => (200, pod("chosen")),
    });
    assert!(matches!(server.perform(TargetKind::Pod, What::Kill { grace_period: None }).await, Outcome::Failed(_)));
}

#[tokio::test]
async fn half_a_second_of_grace_is_rounded_up() {
    let server = Server::start(|_, _| (200, pod("chosen")));
    let grace_period = Some(crate::api::Duration::from_millis(500));
    assert_eq!(server.perform(TargetKind::Pod, What::Kill { grace_period }).await, Outcome::Done);
    assert_eq!(server.asked()[0].2["gracePeriodSeconds"], 1);
}

#[tokio::test]
async fn scaling_writes_replicas_and_their_undo_at_once_and_only_to_what_was_read() {
    let server = Server::start(|_, _| (200, deployment(3, "7", json!({"team": "shop"}))));
    assert_eq!(server.perform(TargetKind::Deployment, What::Scale { from: 3, to: 1 }).await, Outcome::Done);
    let patch = &server.patches()[0];
    assert_eq!(patch["spec"], json!({"replicas": 1}));
    let metadata = &patch["metadata"];
    assert_eq!((&metadata["uid"], &metadata["resourceVersion"]), (&json!("chosen"), &json!("7")));
    let labels = &metadata["labels"];
    assert_eq!(
        (&labels[LABEL_HELD_BY], &labels[LABEL_UNDO_REPLICAS], &labels[LABEL_SET_REPLICAS]),
        (&json!("ours"), &json!("3"), &json!("1"))
    );
}

#[tokio::test]
async fn a_workload_that_was_scaled_meanwhile_is_left_alone() {
    // The first write loses against somebody else's.
    let server = Server::start(|method, before| match (method, before) {
        ("PATCH", _) => (409, refusal(409, "Conflict", "the object has been modified", None)),
        (_, 0) => (200, deployment(3, "7", json!({}))),
        (_, _) => (200, deployment(5, "8", json!({}))),
    });
    let outcome = server.perform(TargetKind::Deployment, What::Scale { from: 3, to: 1 }).await;
    assert_eq!(outcome, Outcome::Refused("Deployment/web has 5 replicas now, not 3 as when it was chosen".to_owned()));
    assert_eq!(server.patches().len(), 1);
}

#[tokio::test]
async fn scaling_twice_writes_once() {
    let server = Server::start(|_, _| (200, deployment(1, "7", held_by("ours"))));
    assert_eq!(server.perform(TargetKind::Deployment, What::Scale { from: 3, to: 1 }).await, Outcome::Done);
    assert_eq!(server.patches(), Vec::<Value>::new());
}

#[tokio::test]
async fn an_undo_that_finds_nothing_writes_once_so_that_a_late_fault_conflicts() {
    let server = Server::start(|_, _| (200, deployment(3, "7", json!({}))));
    assert_eq!(server.perform(TargetKind::Deployment, What::Unscale { set: 1, back: 3 }).await, Outcome::Done);
    let patches = server.patches();
    assert_eq!(patches[0]["metadata"]["annotations"], json!({ANNOTATION_FENCE: run().uid}));
    assert_eq!(patches[0]["metadata"]["resourceVersion"], "7");
    assert_eq!((&patches[0]["spec"], patches.len()), (&json!({}), 1));

    let server = Server::start(|_, _| {
        let mut fenced = deployment(3, "8", json!({}));
        fenced["metadata"]["annotations"] = json!({ANNOTATION_FENCE: run().uid});
        (200, fenced)
    });
    assert_eq!(server.perform(TargetKind::Deployment, What::Unscale { set: 1, back: 3 }).await, Outcome::Done);
    assert_eq!(server.patches(), [Value::Null; 0]);
}

#[tokio::test]
async fn who_lost_the_lease_between_read_and_write_does_not_write() {
    let server = Server::start(|_, _| (200, deployment(3, "7", json!({}))));
    let target = TargetId { kind: TargetKind::Deployment, name: "web".to_owned(), uid: "chosen".to_owned() };
    let hands = Hands { client: &server.client, agents: "gameday-agents", may_act: &|| false };
    let outcome = hands::act(hands, &run(), &target, &What::Scale { from: 3, to: 1 }).await;
    assert_eq!(outcome, Outcome::Failed("another operator leads".to_owned()));
    assert_eq!(server.asked().iter().map(|(method, _, _)| method.as_str()).collect::<Vec<_>>(), ["GET"]);
}

#[tokio::test]
async fn what_another_run_holds_is_neither_scaled_nor_scaled_back() {
    let server = Server::start(|_, _| (200, deployment(1, "7", held_by("theirs"))));
    assert!(matches!(server.perform(TargetKind::Deployment, What::Scale { from: 1, to: 0 }).await, Outcome::Refused(_)));
    assert_eq!(server.perform(TargetKind::Deployment, What::Unscale { set: 1, back: 3 }).await, Outcome::Done);
    assert_eq!(server.patches(), Vec::<Value>::new());
}

#[tokio::test]
async fn scaling_back_takes_the_labels_off_in_the_same_write() {
    let server = Server::start(|_, _| (200, deployment(1, "7", held_by("ours"))));
    assert_eq!(server.perform(TargetKind::Deployment, What::Unscale { set: 1, back: 3 }).await, Outcome::Done);
    let patch = &server.patches()[0];
    assert_eq!(patch["spec"], json!({"replicas": 3}));
    let labels = patch["metadata"]["labels"].as_object().unwrap();
    assert!(labels.len() == 5 && labels.values().all(Value::is_null), "{labels:?}");
}

#[tokio::test]
async fn replicas_that_somebody_has_changed_since_are_theirs() {
    let server = Server::start(|_, _| (200, deployment(4, "7", held_by("ours"))));
    assert_eq!(server.perform(TargetKind::Deployment, What::Unscale { set: 1, back: 3 }).await, Outcome::Done);
    let patch = &server.patches()[0];
    assert_eq!(patch["spec"], json!({}));
    assert_eq!(patch["metadata"]["labels"][LABEL_HELD_BY], Value::Null);
}

#[tokio::test]
async fn a_node_that_somebody_else_cordoned_is_not_ours_to_open() {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "web", "uid": "chosen", "resourceVersion": "7"},
        "spec": {"unschedulable": true},
    });
    let server = Server::start(move |_, _| (200, node.clone()));
    assert!(matches!(server.perform(TargetKind::Node, What::Cordon).await, Outcome::Refused(_)));
    assert_eq!(server.perform(TargetKind::Node, What::Uncordon).await, Outcome::Done);
    // The fence, and nothing else.
    let patches = server.patches();
    assert_eq!((&patches[0]["spec"], &patches[0]["metadata"]["labels"], patches.len()), (&json!({}), &json!({}), 1));
}

#[tokio::test]
async fn undoing_what_is_gone_is_done() {
    let server = Server::start(|_, _| (404, refusal(404, "NotFound", "not found", None)));
    assert_eq!(server.perform(TargetKind::Deployment, What::Unscale { set: 1, back: 3 }).await, Outcome::Done);
    assert_eq!(server.perform(TargetKind::Node, What::Uncordon).await, Outcome::Done);
    assert!(matches!(server.perform(TargetKind::Deployment, What::Scale { from: 3, to: 1 }).await, Outcome::Refused(_)));
}

#[test]
fn a_liveness_probe_is_read_with_the_defaults_of_the_api_server() {
    let read = |probe: Value| {
        let mut pod = pod("chosen");
        pod["spec"] = json!({"containers": [{"name": "bare"}, {"name": "app", "livenessProbe": probe}]});
        objects::pod_seen(serde_json::from_value(pod).unwrap()).liveness
    };
    let probe = |asks, [period, timeout]: [u64; 2], failures| {
        let [period, timeout] = [period, timeout].map(Duration::from_secs);
        [("app".to_owned(), Liveness { asks, period, timeout, failures })].into()
    };
    assert_eq!(read(json!({"httpGet": {"port": 80}})), probe(Asks::Http, [10, 1], 3));
    assert_eq!(read(json!({"grpc": {"port": 80}, "timeoutSeconds": 4})), probe(Asks::Grpc, [10, 4], 3));
    assert_eq!(read(json!({"tcpSocket": {"port": 80}, "periodSeconds": 2})), probe(Asks::Tcp, [2, 1], 3));
    assert_eq!(read(json!({"exec": {"command": ["true"]}, "failureThreshold": 1})), probe(Asks::Command, [10, 1], 1));
    assert_eq!(read(json!({"somethingNew": {}})), std::collections::BTreeMap::new());
}
