use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::connect::Host;
use super::{NoAnswer, margin, short, shown, too_slow};
use crate::api::{Duration, Expect, says};
use crate::engine::steady::{Margin, Sample, Seen};

/// Of a body so much is read. The latency ends there, and text that is expected must be within it: a health
/// page is small, and what is larger would measure the network.
pub const BODY_MAX: usize = 1024 * 1024;

const USER_AGENT: &str = concat!("gameday/", env!("CARGO_PKG_VERSION"));

#[derive(Debug)]
pub struct Target {
    host: Host,
    /// As the Host header says it, without a user or password that the URL may carry.
    authority: String,
    path: Uri,
    tls: Option<Tls>,
}

/// What is needed to verify the other side, or why it could not be had.
type Tls = Result<Arc<ClientConfig>, String>;

impl Target {
    /// # Errors
    /// The URL cannot be asked.
    pub fn new(url: &str) -> Result<Self, String> {
        let url: Uri = url.parse().map_err(|_| says::URL)?;
        let host = url.host().filter(|host| !host.is_empty()).ok_or(says::URL)?;
        let (tls, port) = match url.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(native_roots()), 443),
            Some(_) | None => return Err(says::URL.to_owned()),
        };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = url.path_and_query().map_or("/", |path| path.as_str()).parse().map_err(|_| says::URL)?;
        Ok(Target { host: Host::new(host, url.port_u16().unwrap_or(port)), authority, path, tls })
    }
}

/// Reads the machine's root certificates, once a process.
fn native_roots() -> Tls {
    static ROOTS: OnceLock<Tls> = OnceLock::new();
    ROOTS
        .get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why = found.errors.first().map_or_else(|| "none are installed".to_owned(), ToString::to_string);
                return Err(short(&format!("no root certificates to verify with: {why}")));
            }
            trusting(roots)
        })
        .clone()
}

fn trusting(roots: RootCertStore) -> Tls {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// How far an exchange got, and how long each part of it took, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The host is a name that has to be looked up.
    pub by_name: bool,
    pub lookup_ms: Option<f64>,
    pub connect_ms: Option<f64>,
    pub tls_ms: Option<f64>,
    pub first_byte_ms: Option<f64>,
    pub status: Option<u16>,
    pub body: Vec<u8>,
    /// The body was longer than [`BODY_MAX`].
    pub cut: bool,
}

/// What ended an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole answer is there, or as much of it as is read.
    Answered,
    TimedOut,
    NoAnswer(NoAnswer),
}

/// Asks once, on a connection of its own. Redirects are answers, and are not followed.
pub async fn sample(target: &Target, expect: &Expect, timeout: Duration, started: Timestamp) -> Sample {
    let begin = Instant::now();
    let mut progress = Progress::default();
    let end = match timeout_at(begin + timeout.as_std(), exchange(target, &mut progress)).await {
        Ok(Ok(())) => End::Answered,
        Ok(Err(why)) => End::NoAnswer(why),
        Err(_) => End::TimedOut,
    };
    let took_ms = begin.elapsed().as_secs_f64() * 1_000.0;
    let (seen, margin) = judge(&end, &progress, expect, timeout, took_ms);
    Sample { started, took_ms, seen, margin }
}

/// The body of a good answer, for what is asked besides probes.
///
/// # Errors
/// There is none, in words.
pub async fn get(target: &Target, timeout: Duration) -> Result<Vec<u8>, String> {
    let mut progress = Progress::default();
    let asked = timeout_at(Instant::now() + timeout.as_std(), exchange(target, &mut progress)).await;
    match (asked, progress.status) {
        (Err(_), _) => Err(format!("no answer within {timeout}")),
        (Ok(Err(NoAnswer::Theirs(why) | NoAnswer::Ours(why))), _) => Err(why),
        // Its own words say more than the status of a refusal.
        (Ok(Ok(())), Some(_)) if !progress.cut => Ok(progress.body),
        (Ok(Ok(())), _) => Err("the answer is too long".to_owned()),
    }
}

/// What an exchange says, measured against what is expected.
pub fn judge(end: &End, progress: &Progress, expect: &Expect, timeout: Duration, took_ms: f64) -> (Seen, Option<Margin>) {
    let bad = |said: String| (Seen::Bad(said), None);
    match (end, progress.status) {
        (End::NoAnswer(NoAnswer::Ours(why)), _) => (Seen::Blind(why.clone()), None),
        (End::NoAnswer(NoAnswer::Theirs(why)), None) => bad(why.clone()),
        (End::NoAnswer(NoAnswer::Theirs(why)), Some(status)) => bad(format!("{status}, but the body broke off: {why}")),
        (End::TimedOut, status) => {
            let said = match status {
                Some(status) => format!("{status}, but the body went on past {timeout}"),
                None => format!("no answer within {timeout} ({})", progress.reached()),
            };
            (Seen::Bad(said), margin(expect.latency, took_ms))
        }
        (End::Answered, None) => bad("connection closed".to_owned()),
        (End::Answered, Some(status)) if !is_expected(status, &expect.status) => {
            bad(format!("{status} in {} ms, not {}", shown(took_ms), expected(&expect.status)))
        }
        (End::Answered, Some(status)) => {
            let seen = if let Some(too_slow) = too_slow(expect.latency, took_ms) {
                Seen::Bad(format!("{status} in {too_slow} ({})", progress.parts()))
            } else if let Some(text) = &expect.body
                && !String::from_utf8_lossy(&progress.body).contains(text.as_str())
            {
                let within = if progress.cut { " in its first MiB" } else { "" };
                Seen::Bad(format!("body does not contain {:?}{within}", short(text)))
            } else {
                let of_which = if progress.cut { ", first MiB of the body" } else { "" };
                Seen::Good(format!("{status} in {} ms ({}{of_which})", shown(took_ms), progress.parts()))
            };
            (seen, margin(expect.latency, took_ms))
        }
    }
}

fn is_expected(status: u16, expected: &[i32]) -> bool {
    if expected.is_empty() { (200..400).contains(&status) } else { expected.contains(&i32::from(status)) }
}

fn expected(statuses: &[i32]) -> String {
    match statuses {
        [] => "200 to 399".to_owned(),
        [first, more @ ..] => more.iter().fold(first.to_string(), |said, status| format!("{said} or {status}")),
    }
}

impl Progress {
    /// "connect 1, first byte 9"
    fn parts(&self) -> String {
        let parts =
            [("lookup", self.lookup_ms), ("connect", self.connect_ms), ("TLS", self.tls_ms), ("first byte", self.first_byte_ms)];
        let said: Vec<String> = parts.iter().filter_map(|(part, ms)| ms.map(|ms| format!("{part} {}", shown(ms)))).collect();
        said.join(", ")
    }

    /// What there was, where there is no answer.
    fn reached(&self) -> String {
        match self {
            Progress { by_name: true, lookup_ms: None, .. } => "the name is still looked up".to_owned(),
            Progress { connect_ms: None, lookup_ms: Some(_), .. } => format!("{}, not connected", self.parts()),
            Progress { connect_ms: None, lookup_ms: None, .. } => "not connected".to_owned(),
            Progress { connect_ms: Some(_), .. } => self.parts(),
        }
    }
}

/// Notes the time since the last note.
struct Stopwatch(Instant);

impl Stopwatch {
    fn lap_ms(&mut self) -> f64 {
        let now = Instant::now();
        let ms = now.duration_since(self.0).as_secs_f64() * 1_000.0;
        self.0 = now;
        ms
    }
}

async fn exchange(target: &Target, progress: &mut Progress) -> Result<(), NoAnswer> {
    let tls = target.tls.as_ref().map(Result::as_ref).transpose().map_err(|why| NoAnswer::Ours(why.clone()))?;
    let mut stopwatch = Stopwatch(Instant::now());
    progress.by_name = target.host.is_name();
    let addresses = target.host.look_up().await?;
    if progress.by_name {
        progress.lookup_ms = Some(stopwatch.lap_ms());
    }
    let stream = target.host.connect(&addresses).await?;
    progress.connect_ms = Some(stopwatch.lap_ms());
    let Some(config) = tls else {
        return ask(target, stream, stopwatch, progress).await;
    };
    let name = ServerName::try_from(target.host.name().to_owned())
        .map_err(|_| NoAnswer::Ours(format!("no certificate can be for {:?}", short(target.host.name()))))?;
    let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(|error| tls_failure(&error))?;
    progress.tls_ms = Some(stopwatch.lap_ms());
    ask(target, stream, stopwatch, progress).await
}

fn tls_failure(error: &io::Error) -> NoAnswer {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            NoAnswer::Theirs(short(&format!("the certificate does not verify: {why}")))
        }
        Some(why) => NoAnswer::Theirs(short(&format!("no TLS: {why}"))),
        None => NoAnswer::from_io(error),
    }
}

/// Sends the request and reads the answer.
async fn ask<S>(target: &Target, stream: S, mut stopwatch: Stopwatch, progress: &mut Progress) -> Result<(), NoAnswer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = Request::get(target.path.clone())
        .header(header::HOST, &target.authority)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| NoAnswer::Ours(format!("no request can be made of the URL: {error}")))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failure(&error))?;
    // The connection is driven here rather than in a task of its own, so that it ends with the sample.
    let mut connection = pin!(connection);
    let mut over = false;
    let response = beside(connection.as_mut(), &mut over, sender.send_request(request)).await.map_err(|error| failure(&error))?;
    progress.first_byte_ms = Some(stopwatch.lap_ms());
    progress.status = Some(response.status().as_u16());

    let mut body = response.into_body();
    while let Some(frame) = beside(connection.as_mut(), &mut over, body.frame()).await {
        let frame = frame.map_err(|error| failure(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = BODY_MAX - progress.body.len();
        progress.body.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            progress.cut = true;
            break;
        }
    }
    Ok(())
}

/// Waits for something that a connection must be driven for. How the connection ends is told by what waits for
/// it.
async fn beside<C, F>(mut connection: Pin<&mut C>, over: &mut bool, waited_for: F) -> F::Output
where
    C: Future<Output = hyper::Result<()>>,
    F: Future,
{
    let mut waited_for = pin!(waited_for);
    poll_fn(move |context| {
        if let Poll::Ready(output) = waited_for.as_mut().poll(context) {
            return Poll::Ready(output);
        }
        if !*over && connection.as_mut().poll(context).is_ready() {
            *over = true;
        }
        waited_for.as_mut().poll(context)
    })
    .await
}

fn failure(error: &hyper::Error) -> NoAnswer {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return NoAnswer::from_io(cause);
        }
        source = cause.source();
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        NoAnswer::Theirs("connection closed".to_owned())
    } else if error.is_parse() {
        NoAnswer::Theirs(short(&format!("not HTTP: {error}")))
    } else {
        NoAnswer::Theirs(short(&error.to_string()))
    }
}

#[cfg(test)]
mod tests;
