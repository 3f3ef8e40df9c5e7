use std::io;
use std::sync::Arc;

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::*;
use crate::api::{Expect, Percent, ReadyAtLeast, WorkloadKind, WorkloadRef};
use crate::engine::steady::Seen;

pub(super) fn good(said: &str) -> Seen {
    Seen::Good(said.to_owned())
}

pub(super) fn bad(said: &str) -> Seen {
    Seen::Bad(said.to_owned())
}

pub(super) fn blind(said: &str) -> Seen {
    Seen::Blind(said.to_owned())
}

pub(super) fn within(ms: u64) -> Expect {
    Expect { latency: Some(Duration::from_millis(ms)), ..Expect::default() }
}

/// A probe of this URL.
pub(super) fn probe(url: &str) -> Probe {
    serde_json::from_value(serde_json::json!({"name": "shop", "http": {"url": url}})).unwrap()
}

pub(super) fn no_workloads() -> ReadWorkload {
    Arc::new(|_| async { Ok(None) }.boxed())
}

pub(super) fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// What a server is asked.
pub(super) async fn request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = vec![0; 4_096];
    let length = stream.read(&mut request).await.unwrap();
    String::from_utf8_lossy(&request[..length]).into_owned()
}

const HALF_A_SECOND: Duration = Duration::from_millis(500);

#[test]
fn an_error_is_theirs_or_ours() {
    let theirs = |text: &str| NoAnswer::Theirs(text.to_owned());
    for (error, says) in [
        (io::Error::from(io::ErrorKind::ConnectionRefused), theirs("connection refused")),
        (io::Error::from(io::ErrorKind::ConnectionReset), theirs("connection reset")),
        (io::Error::from(io::ErrorKind::HostUnreachable), theirs("host unreachable")),
        (io::Error::other("x".repeat(1_000)), theirs(&format!("{}…", "x".repeat(160)))),
    ] {
        assert_eq!(NoAnswer::from_io(&error), says);
    }
    // EMFILE, ENOBUFS, ENETUNREACH, EADDRNOTAVAIL, EPERM.
    for number in [24, 105, 101, 99, 1] {
        let error = io::Error::from_raw_os_error(number);
        assert!(matches!(NoAnswer::from_io(&error), NoAnswer::Ours(_)), "{error}");
    }
}

#[test]
fn a_connection_is_judged_by_its_time() {
    let judge = |end: tcp::End, expect: &Expect, took_ms| {
        let (seen, margin) = tcp::judge(&end, expect, HALF_A_SECOND, took_ms);
        (seen, margin.map(|margin| margin.left))
    };
    let refused = || tcp::End::NoAnswer(NoAnswer::Theirs("connection refused".to_owned()));
    let no_files = || tcp::End::NoAnswer(NoAnswer::Ours("no files left".to_owned()));
    for (end, expect, took_ms, seen) in [
        (tcp::End::Connected, Expect::default(), 0.42, (good("connected in 0.4 ms"), None)),
        (tcp::End::Connected, within(300), 12.2, (good("connected in 12 ms"), Some(287.8))),
        (tcp::End::Connected, within(300), 412.0, (bad("connected in 412 ms, more than 300ms"), Some(-112.0))),
        (tcp::End::Connected, within(300), 300.25, (bad("connected in 300.2 ms, more than 300ms"), Some(-0.25))),
        (tcp::End::TimedOut, within(300), 501.0, (bad("no connection within 500ms"), Some(-201.0))),
        (tcp::End::TimedOut, Expect::default(), 501.0, (bad("no connection within 500ms"), None)),
        (refused(), within(300), 0.1, (bad("connection refused"), None)),
        (no_files(), within(300), 0.1, (blind("no files left"), None)),
    ] {
        assert_eq!(judge(end, &expect, took_ms), seen);
    }
}

#[test]
fn a_workload_is_judged_by_its_ready_replicas() {
    let checkout = WorkloadRef { kind: WorkloadKind::Deployment, name: "checkout".to_owned() };
    let all = || Expect::default();
    let count = |count| Expect { ready: Some(ReadyAtLeast { count: Some(count), percent: None }), ..Expect::default() };
    let percent = |percent| Expect {
        ready: Some(ReadyAtLeast { count: None, percent: Some(Percent::new(percent).unwrap()) }),
        ..Expect::default()
    };
    for (asked_for, ready, expect, seen, left, needed) in [
        (3, 3, all(), good("3 of 3 ready"), 0.0, 3.0),
        (3, 2, all(), bad("2 of 3 ready, 3 needed"), -1.0, 3.0),
        (0, 0, all(), good("0 of 0 ready"), 0.0, 0.0),
        (3, 2, percent(60), good("2 of 3 ready"), 0.0, 2.0),
        (3, 1, percent(60), bad("1 of 3 ready, 2 needed"), -1.0, 2.0),
        (3, 1, percent(1), good("1 of 3 ready"), 0.0, 1.0),
        (3, 3, percent(67), good("3 of 3 ready"), 0.0, 3.0),
        (4, 3, percent(75), good("3 of 4 ready"), 0.0, 3.0),
        (3, 4, percent(100), good("4 of 3 ready"), 1.0, 3.0),
        (0, 0, percent(60), good("0 of 0 ready"), 0.0, 0.0),
        (5, 3, count(2), good("3 of 5 ready"), 1.0, 2.0),
        (1, 1, count(2), bad("1 of 1 ready, 2 needed"), -1.0, 2.0),
    ] {
        let end = workload::End::Read(Replicas { asked_for, ready });
        let margin = Margin { left, limit: needed, unit: "replicas" };
        assert_eq!(workload::judge(&end, &checkout, &expect, HALF_A_SECOND), (seen, Some(margin)));
    }
    for (end, seen) in [
        (workload::End::Absent, bad("Deployment/checkout does not exist")),
        (workload::End::TimedOut, blind("the API server did not answer within 500ms")),
        (workload::End::NoAnswer("503".to_owned()), blind("503")),
    ] {
        assert_eq!(workload::judge(&end, &checkout, &all(), HALF_A_SECOND), (seen, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_cannot_be_read_is_blind_at_the_timeout() {
    let never: ReadWorkload = Arc::new(|_| std::future::pending().boxed());
    let probe: Probe = serde_json::from_value(serde_json::json!({
        "name": "replicas", "workload": {"kind": "Deployment", "name": "checkout"}, "timeout": "2s",
    }))
    .unwrap();
    let sample = Prober::new(&probe, &never).unwrap().sample(now()).await;
    assert_eq!(sample.seen, blind("the API server did not answer within 2s"));
    assert_eq!(sample.took_ms, 2_000.0);
}

#[tokio::test]
async fn a_connection_is_opened_and_closed_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = tcp::Target::new(&listener.local_addr().unwrap().to_string()).unwrap();
    let sample = tcp::sample(&target, &within(5_000), Duration::from_secs(5), now()).await;
    assert!(matches!(&sample.seen, Seen::Good(said) if said.starts_with("connected in ")), "{sample:?}");
    assert!(sample.margin.is_some_and(|margin| margin.left < 5_000.0));
    let (mut stream, _) = listener.accept().await.unwrap();
    let read = stream.read(&mut [0; 8]).await.unwrap();
    assert_eq!(read, 0, "closed");

    drop(listener);
    let sample = tcp::sample(&target, &within(5_000), Duration::from_secs(5), now()).await;
    assert_eq!((sample.seen, sample.margin), (bad("connection refused"), None));
}

#[test]
fn a_target_that_cannot_be_is_refused() {
    for address in ["", "shop", "shop:", "shop:x", "shop:70000"] {
        assert_eq!(tcp::Target::new(address).unwrap_err(), says::ADDRESS, "{address}");
    }
    for url in ["", "shop", "/healthz", "ftp://shop", "http://", "http:// shop"] {
        assert_eq!(http::Target::new(url).unwrap_err(), says::URL, "{url}");
    }
    let mut both = probe("http://shop");
    both.tcp = Some(crate::api::TcpProbe { address: "shop:80".to_owned() });
    assert_eq!(Prober::new(&both, &no_workloads()).unwrap_err(), says::ONE_PROBE);
}
