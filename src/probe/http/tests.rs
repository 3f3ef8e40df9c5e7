use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::probe::tests::{bad, blind, good, now, request, within};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Longer than any answer of a server in this process takes.
const LONG: Duration = Duration::from_secs(30);

/// A server that answers every connection so, each in its own task.
async fn serve<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream));
        }
    });
    url
}

/// A server that reads a request, waits, and says these words.
async fn says(wait: Duration, words: impl Into<Vec<u8>>) -> String {
    let words: Arc<[u8]> = words.into().into();
    serve(move |mut stream| {
        let words = words.clone();
        async move {
            request(&mut stream).await;
            tokio::time::sleep(wait.as_std()).await;
            // The probe may have read enough and gone.
            let _: io::Result<()> = stream.write_all(&words).await;
        }
    })
    .await
}

async fn ask(url: &str, expect: &Expect, timeout: Duration) -> Sample {
    sample(&Target::new(url).unwrap(), expect, timeout, now()).await
}

fn starts(seen: &Seen, start: &str) -> bool {
    let (Seen::Good(said) | Seen::Bad(said) | Seen::Blind(said)) = seen;
    said.starts_with(start)
}

fn answered(status: u16, body: &str) -> Progress {
    Progress {
        connect_ms: Some(0.96),
        first_byte_ms: Some(9.4),
        status: Some(status),
        body: body.as_bytes().to_vec(),
        ..Progress::default()
    }
}

#[test]
fn an_answer_is_judged_by_status_then_time_then_body() {
    let statuses = |statuses: &[i32]| Expect { status: statuses.to_vec(), ..within(300) };
    let body = |text: &str| Expect { body: Some(text.to_owned()), ..within(300) };
    let cut = |progress| Progress { cut: true, ..progress };
    for (progress, expect, took_ms, seen, left) in [
        (answered(200, ""), Expect::default(), 12.0, good("200 in 12 ms (connect 1, first byte 9)"), None),
        (answered(399, ""), within(300), 12.0, good("399 in 12 ms (connect 1, first byte 9)"), Some(288.0)),
        (answered(503, ""), within(300), 8.0, bad("503 in 8 ms, not 200 to 399"), None),
        (answered(199, ""), within(300), 8.0, bad("199 in 8 ms, not 200 to 399"), None),
        (answered(400, ""), within(300), 8.0, bad("400 in 8 ms, not 200 to 399"), None),
        (answered(503, ""), statuses(&[200]), 8.0, bad("503 in 8 ms, not 200"), None),
        (answered(201, ""), statuses(&[200, 204]), 900.0, bad("201 in 900 ms, not 200 or 204"), None),
        (answered(503, ""), statuses(&[503]), 8.0, good("503 in 8 ms (connect 1, first byte 9)"), Some(292.0)),
        (answered(200, "no"), body("ok"), 412.0, bad("200 in 412 ms, more than 300ms (connect 1, first byte 9)"), Some(-112.0)),
        (answered(200, ""), within(300), 300.0, good("200 in 300 ms (connect 1, first byte 9)"), Some(0.0)),
        (answered(200, "all ok"), body("ok"), 8.0, good("200 in 8 ms (connect 1, first byte 9)"), Some(292.0)),
        (answered(200, "no"), body("ok"), 8.0, bad("body does not contain \"ok\""), Some(292.0)),
        (cut(answered(200, "no")), body("ok"), 8.0, bad("body does not contain \"ok\" in its first MiB"), Some(292.0)),
        (
            cut(answered(200, "ok")),
            body("ok"),
            8.0,
            good("200 in 8 ms (connect 1, first byte 9, first MiB of the body)"),
            Some(292.0),
        ),
    ] {
        let (said, margin) = judge(&End::Answered, &progress, &expect, ms(500), took_ms);
        assert_eq!((said, margin.map(|margin| margin.left)), (seen, left));
    }
}

#[test]
fn what_is_no_answer_is_judged_by_how_far_it_got() {
    let connected = Progress { connect_ms: Some(0.3), ..Progress::default() };
    let by_name = Progress { by_name: true, ..Progress::default() };
    let looked_up = Progress { lookup_ms: Some(2.0), ..by_name.clone() };
    let theirs = || End::NoAnswer(NoAnswer::Theirs("connection reset".to_owned()));
    let ours = || End::NoAnswer(NoAnswer::Ours("no roots".to_owned()));
    for (end, progress, seen, left) in [
        (End::TimedOut, Progress::default(), bad("no answer within 500ms (not connected)"), Some(-201.0)),
        (End::TimedOut, by_name, bad("no answer within 500ms (the name is still looked up)"), Some(-201.0)),
        (End::TimedOut, looked_up, bad("no answer within 500ms (lookup 2, not connected)"), Some(-201.0)),
        (End::TimedOut, connected, bad("no answer within 500ms (connect 0.3)"), Some(-201.0)),
        (End::TimedOut, answered(200, ""), bad("200, but the body went on past 500ms"), Some(-201.0)),
        (theirs(), Progress::default(), bad("connection reset"), None),
        (theirs(), answered(200, ""), bad("200, but the body broke off: connection reset"), None),
        (ours(), Progress::default(), blind("no roots"), None),
    ] {
        let (said, margin) = judge(&end, &progress, &within(300), ms(500), 501.0);
        assert_eq!((said, margin.map(|margin| margin.left)), (seen, left));
    }
}

#[tokio::test]
async fn each_sample_is_a_request_on_a_connection_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let expect = Expect::default();
    let target = Target::new(&format!("http://user:secret@{address}/healthz?deep=1")).unwrap();
    for _ in 0..2 {
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            asked
        };
        let (sample, asked) = tokio::join!(sample(&target, &expect, LONG, now()), answer);
        assert!(starts(&sample.seen, "200 in "), "{sample:?}");
        assert_eq!(
            asked,
            format!(
                "GET /healthz?deep=1 HTTP/1.1\r\nhost: {address}\r\nuser-agent: gameday/{}\r\naccept: */*\r\nconnection: close\r\n\r\n",
                env!("CARGO_PKG_VERSION")
            )
        );
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let url = says(ms(0), "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n").await;
    let sample = ask(&url, &Expect::default(), LONG).await;
    assert!(matches!(&sample.seen, Seen::Good(said) if said.starts_with("302 in ")), "{sample:?}");
    let sample = ask(&url, &Expect { status: vec![200], ..Expect::default() }, LONG).await;
    assert!(matches!(&sample.seen, Seen::Bad(said) if said.ends_with("not 200")), "{sample:?}");
}

#[tokio::test]
async fn a_slow_answer_is_bad_beyond_the_latency_and_says_where_the_time_went() {
    let url = says(ms(80), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let sample = ask(&url, &within(40), LONG).await;
    assert!(matches!(&sample.seen, Seen::Bad(said) if said.contains(" ms, more than 40ms (connect ")), "{sample:?}");
    assert!(sample.took_ms >= 80.0 && sample.margin.is_some_and(|margin| margin.left <= -40.0), "{sample:?}");
}

#[tokio::test]
async fn a_body_must_contain_its_text_within_the_first_mebibyte() {
    let ok = Expect { body: Some("ok".to_owned()), ..Expect::default() };
    // Without a length: it ends where the connection does, and the text lies across two pieces.
    let url = serve(|mut stream| async move {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall o").await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(ms(20).as_std()).await;
        stream.write_all(b"k").await.unwrap();
    })
    .await;
    let sample = ask(&url, &ok, LONG).await;
    assert!(starts(&sample.seen, "200 in "), "{sample:?}");
    let url = says(ms(0), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(ask(&url, &ok, LONG).await.seen, bad("body does not contain \"ok\""));

    let mut large = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    large.extend(vec![b'x'; BODY_MAX]);
    let exact = says(ms(0), large.clone()).await;
    assert_eq!(ask(&exact, &ok, LONG).await.seen, bad("body does not contain \"ok\""));
    large.extend(b"ok");
    let larger = says(ms(0), large).await;
    assert_eq!(ask(&larger, &ok, LONG).await.seen, bad("body does not contain \"ok\" in its first MiB"));
}

#[tokio::test]
async fn a_body_that_never_ends_is_bad_at_the_timeout() {
    let url = serve(|mut stream| async move {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        // Until the probe has gone.
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(ms(5).as_std()).await;
        }
    })
    .await;
    let sample = ask(&url, &within(100), ms(1_000)).await;
    assert_eq!(sample.seen, bad("200, but the body went on past 1s"));
    assert!((1_000.0..1_900.0).contains(&sample.took_ms), "{sample:?}");
    assert!(sample.margin.is_some_and(|margin| margin.left <= -900.0), "{sample:?}");
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_bad_at_the_timeout() {
    let url = serve(|mut stream| async move { while stream.read(&mut [0; 4_096]).await.is_ok_and(|read| read > 0) {} }).await;
    let sample = ask(&url, &within(100), ms(200)).await;
    assert!(matches!(&sample.seen, Seen::Bad(said) if said.starts_with("no answer within 200ms (connect ")), "{sample:?}");
    assert!((200.0..5_000.0).contains(&sample.took_ms), "{sample:?}");
}

#[tokio::test]
async fn what_is_not_an_answer_is_bad_and_says_why() {
    for (words, seen) in [
        ("", "connection closed"),
        ("HTTP/1.1 200", "connection closed"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP: "),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", "200, but the body broke off: connection closed"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "200, but the body broke off: "),
    ] {
        let sample = ask(&says(ms(0), words).await, &within(100), LONG).await;
        assert!(matches!(sample.seen, Seen::Bad(_)) && starts(&sample.seen, seen), "{words:?}: {sample:?}");
        assert_eq!(sample.margin, None);
    }
    let reset = serve(|stream| async move {
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(ask(&reset, &within(100), LONG).await.seen, bad("connection reset"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(ask(&url, &within(100), LONG).await.seen, bad("connection refused"));
}

#[tokio::test]
async fn a_name_is_looked_up_and_its_time_told() {
    let url = says(ms(0), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let sample = ask(&url.replace("127.0.0.1", "localhost"), &Expect::default(), LONG).await;
    assert!(matches!(&sample.seen, Seen::Good(said) if said.contains("(lookup ")), "{sample:?}");
}

// A certificate for localhost that signs itself, good for a hundred years and for nothing but these tests.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBmTCCAT6gAwIBAgIUR7Jp7MMLJbrD9O+o5xCcoFTtFN8wCgYIKoZIzj0EAwIw\n\
FzEVMBMGA1UEAwwMZ2FtZWRheSB0ZXN0MCAXDTI2MTEyNDE2NTIwM1oYDzIxMjYx\n\
MDMxMTY1MjAzWjAXMRUwEwYDVQQDDAxnYW1lZGF5IHRlc3QwWTATBgcqhkjOPQIB\n\
BggqhkjOPQMBBwNCAAQhmWvc3oUpcTaJkc9NxYM3rAj4ue4u9Z2wYQCamE6r6Hg+\n\
sY0JLV8r/dY1DAYuuF7U5+gjOGKeoYf2axiYhjxHo2YwZDAdBgNVHQ4EFgQUSzaw\n\
9PBRAoz4ERHynTwIAY1VFqkwHwYDVR0jBBgwFoAUSzaw9PBRAoz4ERHynTwIAY1V\n\
FqkwFAYDVR0RBA0wC4IJbG9jYWxob3N0MAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0E\n\
AwIDSQAwRgIhAIS60GEpnU7lLimmUsZFzo0Bzv0dY6Rzl2iVohYvyju6AiEA8hFq\n\
RbRruYc23WCdyVfcP0tPG0aAs08tU5dvTHaO6i4=\n\
-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgm0dCD/PqnFfrJi0K\n\
LpN0pXehOMGzr08jU57qrG9GKOShRANCAAQhmWvc3oUpcTaJkc9NxYM3rAj4ue4u\n\
9Z2wYQCamE6r6Hg+sY0JLV8r/dY1DAYuuF7U5+gjOGKeoYf2axiYhjxH\n\
-----END PRIVATE KEY-----\n";

fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()
}

/// Where a server speaks TLS and says this.
async fn says_in_tls(words: &'static [u8]) -> String {
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate()], PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let url = serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A client that does not trust the certificate has gone.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            request(&mut stream).await;
            stream.write_all(words).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await;
    url.replace("http://", "https://")
}

#[tokio::test]
async fn a_certificate_is_verified_and_tls_has_its_own_time() {
    let url = says_in_tls(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate()).unwrap();
    let asked = async |url: &str, tls: Tls| {
        let plain = Target::new(&url.replace("https://", "http://")).unwrap();
        sample(&Target { tls: Some(tls), ..plain }, &Expect::default(), LONG, now()).await.seen
    };
    let by_name = url.replace("127.0.0.1", "localhost");

    let seen = asked(&by_name, trusting(roots.clone())).await;
    assert!(matches!(&seen, Seen::Good(said) if said.contains(", TLS ")), "{seen:?}");
    // Not the name that it is for.
    let seen = asked(&url, trusting(roots.clone())).await;
    assert!(matches!(&seen, Seen::Bad(said) if said.starts_with("the certificate does not verify: ")), "{seen:?}");
    // Nobody vouches for it.
    let seen = asked(&by_name, trusting(RootCertStore::empty())).await;
    assert!(matches!(&seen, Seen::Bad(said) if said.starts_with("the certificate does not verify: ")), "{seen:?}");
    // There is nothing to verify it with.
    let seen = asked(&by_name, Err("no root certificates to verify with".to_owned())).await;
    assert_eq!(seen, blind("no root certificates to verify with"));
    // It does not speak TLS.
    let plain = says(ms(0), "HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let seen = asked(&plain, trusting(roots)).await;
    assert!(matches!(&seen, Seen::Bad(said) if said.starts_with("no TLS: ")), "{seen:?}");
}
