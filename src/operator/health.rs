//! What may be asked of the operator: `/metrics`, `/healthz`, `/readyz`. Read-only, and all that listens.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at once: a kubelet, a few scrapers, and a person.
const CONNECTIONS: usize = 16;
/// A connection lives so long at most: one answer, and no idle ones.
const CONNECTION: Duration = Duration::from_secs(10);
/// A client has so long to send its request's head.
const HEAD: Duration = Duration::from_secs(5);
/// Seconds from a breach to the last target's return: from one API call to a pod's grace period.
const ABORT_BUCKETS: [f64; 10] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 120.0];
/// Seconds of one turn: from nothing to do to an API server that does not answer.
const TURN_BUCKETS: [f64; 8] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.25, 1.0, 5.0];

type Label = [(&'static str, String); 1];

/// All that is counted.
pub struct Metrics {
    registry: Registry,
    ready: AtomicBool,
    pub leader: Gauge<i64, AtomicI64>,
    pub runs_active: Gauge<i64, AtomicI64>,
    pub faults_in_force: Gauge<i64, AtomicI64>,
    pub abort: Histogram,
    pub turn: Histogram,
    runs_finished: Family<Label, Counter>,
    probe_samples: Family<Label, Counter>,
}

impl Metrics {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let metrics = Metrics {
            registry: Registry::with_prefix("gameday"),
            ready: AtomicBool::new(false),
            leader: Gauge::default(),
            runs_active: Gauge::default(),
            faults_in_force: Gauge::default(),
            abort: Histogram::new(ABORT_BUCKETS),
            turn: Histogram::new(TURN_BUCKETS),
            runs_finished: Family::default(),
            probe_samples: Family::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("leader", "1 while this process leads", self.leader.clone());
        registry.register("runs_active", "Runs under way", self.runs_active.clone());
        registry.register("faults_in_force", "Targets not known to be clean", self.faults_in_force.clone());
        registry.register("runs_finished", "Runs finished, by verdict", self.runs_finished.clone());
        registry.register("probe_samples", "Samples of probes, by result", self.probe_samples.clone());
        let abort = "Breach seen to last fault gone";
        registry.register_with_unit("abort", abort, Unit::Seconds, self.abort.clone());
        registry.register_with_unit("turn", "One turn of a run", Unit::Seconds, self.turn.clone());
        self
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    pub fn run_finished(&self, verdict: &str) {
        self.runs_finished.get_or_create(&[("verdict", verdict.to_owned())]).inc();
    }

    pub fn samples(&self, result: &str, count: u64) {
        self.probe_samples.get_or_create(&[("result", result.to_owned())]).inc_by(count);
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Listens, and answers until the task is dropped.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(address).await?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    Ok(tokio::spawn(async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection for health or metrics could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let metrics = Arc::clone(&metrics);
            tokio::spawn(async move {
                let answering = service_fn(|request| {
                    let answered = answer(&request, &metrics);
                    async { Ok::<_, Infallible>(answered) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), answering);
                // A client that goes away, or stays too long, is its own affair.
                let _ = tokio::time::timeout(CONNECTION, connection).await;
                drop(place);
            });
        }
    }))
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let plain = |status, text: &str| said(status, "text/plain; charset=utf-8", text.to_owned());
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if metrics.ready.load(Ordering::Relaxed) => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "the cluster has not been read yet\n"),
        "/metrics" => match metrics.text() {
            Ok(text) => said(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    }
}

fn said(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
