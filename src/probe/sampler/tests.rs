use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::probe::tests::{bad, good, no_workloads, now, probe, request};

fn every(every_ms: u64, timeout_ms: u64) -> Probe {
    let mut probe = probe("http://shop");
    probe.every = crate::api::Duration::from_millis(every_ms);
    probe.timeout = crate::api::Duration::from_millis(timeout_ms);
    probe
}

/// Samples that take so long each, one after the other: when they started, when they were handed on, and how
/// many were under way at most.
async fn sampled(probe: Probe, takes_ms: impl Fn(usize) -> u64, count: usize) -> (Vec<u64>, Vec<(String, u64)>, usize) {
    let begin = Instant::now();
    let mut starts = Vec::new();
    let handed_on = Mutex::new(Vec::new());
    let (under_way, at_most) = (&AtomicUsize::new(0), AtomicUsize::new(0));
    let take = || {
        let number = starts.len();
        starts.push(begin.elapsed().as_millis() as u64);
        at_most.fetch_max(under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let takes = Duration::from_millis(takes_ms(number));
        async move {
            sleep(takes).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            Sample { started: now(), took_ms: 0.0, seen: good(&number.to_string()), margin: None }
        }
    };
    let hand_on = |sample: Sample| {
        let Seen::Good(said) = sample.seen else { unreachable!("only good samples are made here") };
        locked_list(&handed_on).push((said, begin.elapsed().as_millis() as u64));
    };
    let enough = async {
        while locked_list(&handed_on).len() < count {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = keep_sampling(&probe, take, hand_on) => unreachable!("it never ends"),
        () = enough => {}
    }
    (starts, handed_on.into_inner().unwrap(), at_most.into_inner())
}

fn locked_list<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().unwrap()
}

#[tokio::test(start_paused = true)]
async fn samples_start_on_time_and_are_handed_on_in_order() {
    let (starts, handed_on, _) = sampled(every(100, 500), |number| if number == 1 { 450 } else { 10 }, 8).await;
    assert_eq!(starts[..8], [0, 100, 200, 300, 400, 500, 600, 700]);
    let expected = [("0", 10), ("1", 550), ("2", 550), ("3", 550), ("4", 550), ("5", 550), ("6", 610), ("7", 710)];
    let expected: Vec<(String, u64)> = expected.map(|(said, at)| (said.to_owned(), at)).into();
    assert_eq!(handed_on, expected);
}

#[tokio::test(start_paused = true)]
async fn samples_under_way_are_bounded() {
    let (starts, _, at_most) = sampled(every(100, 250), |_| 250, 20).await;
    assert!(at_most <= 4, "⌈250 / 100⌉ + 1, not {at_most}");
    assert_eq!(starts[..4], [0, 100, 200, 300], "none had to be left out");
    // Also where a sample breaks its promise to end at the timeout.
    let (_, _, at_most) = sampled(every(100, 250), |number| if number < 6 { 10_000 } else { 1 }, 6).await;
    assert_eq!(at_most, 4);
}

#[tokio::test(start_paused = true)]
async fn samples_of_a_time_in_which_the_process_stood_still_are_left_out() {
    let begin = Instant::now();
    let mut starts = Vec::new();
    let take = || {
        starts.push(begin.elapsed().as_millis());
        std::future::ready(Sample { started: now(), took_ms: 0.0, seen: good(""), margin: None })
    };
    let mut handed_on = 0;
    let hand_on = |_| {
        handed_on += 1;
        if handed_on == 2 {
            // Time goes on, and nothing is polled meanwhile.
            let stood_still = tokio::time::advance(Duration::from_millis(730));
            futures::FutureExt::now_or_never(stood_still);
        }
    };
    let probe = every(100, 100);
    let _: Result<(), _> = timeout(Duration::from_millis(1_150), keep_sampling(&probe, take, hand_on)).await;
    assert_eq!(starts, [0, 100, 830, 900, 1_000, 1_100]);
}

#[test]
fn news_is_what_may_decide_something() {
    let mut streak = 0;
    let told: Vec<bool> = [
        good(""),
        good(""),
        good(""),
        good(""),
        bad(""),
        bad(""),
        bad(""),
        Seen::Blind(String::new()),
        good(""),
        good(""),
        Seen::Blind(String::new()),
        good(""),
    ]
    .iter()
    .map(|seen| is_news(seen, &mut streak, 2))
    .collect();
    assert_eq!(told, [true, true, false, false, true, true, true, true, true, true, true, false]);
}

#[tokio::test]
async fn a_slow_bad_answer_comes_before_the_good_ones_that_overtook_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut probe = probe(&format!("http://{}/", listener.local_addr().unwrap()));
    probe.every = crate::api::Duration::from_millis(100);
    probe.timeout = crate::api::Duration::from_millis(1_000);
    let server = tokio::spawn(async move {
        // The first is never answered, the others are, at once.
        let _silent = listener.accept().await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        }
    });
    let news = Arc::new(Notify::new());
    let prober = Prober::new(&probe, &no_workloads()).unwrap();
    let sampler = Sampler::start(prober, None, Arc::new(Timestamp::now), news.clone());
    let steady = async {
        while !sampler.track().is_steady(&probe) {
            news.notified().await;
        }
    };
    timeout(Duration::from_secs(30), steady).await.expect("news comes with each sample that makes it steady");
    let status = sampler.track().status(&probe);
    assert_eq!((status.bad, status.streak), (1, 0), "{status:?}");
    assert!(status.worst_ms.is_some_and(|worst| worst >= 1_000.0), "{status:?}");
    server.abort();
}

#[tokio::test]
async fn what_is_under_way_ends_with_its_sampler() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut probe = probe(&format!("http://{}/", listener.local_addr().unwrap()));
    probe.every = crate::api::Duration::from_secs(60);
    probe.timeout = crate::api::Duration::from_secs(60);
    let prober = Prober::new(&probe, &no_workloads()).unwrap();
    let sampler = Sampler::start(prober, None, Arc::new(Timestamp::now), Arc::new(Notify::new()));
    let (mut under_way, _) = listener.accept().await.unwrap();
    drop(sampler);
    let closed = async { while under_way.read(&mut [0; 1_024]).await.is_ok_and(|read| read > 0) {} };
    timeout(Duration::from_secs(30), closed).await.expect("the connection is closed");
}
