//! An API server with one run in it, for what the command line makes of its answers. It knows lists, a watch that
//! says nothing, creating, reading and stopping it; everything else is not found.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub struct Server {
    kubeconfig: PathBuf,
    known: Arc<Mutex<Known>>,
}

/// What the server knows.
#[derive(Clone, Default)]
struct Known {
    run: Option<Value>,
    /// Somebody watches it.
    watched: bool,
}

impl Server {
    /// Serves until the test process ends.
    pub fn start(name: &str, run: Option<Value>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let kubeconfig = std::env::temp_dir().join(format!("gameday-offline-{name}-{}.kubeconfig", std::process::id()));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).expect("a temporary file");
        let known = Arc::new(Mutex::new(Known { run, watched: false }));
        let shared = Arc::clone(&known);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let known = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &known));
            }
        });
        Server { kubeconfig, known }
    }

    pub fn kubeconfig(&self) -> &str {
        self.kubeconfig.to_str().expect("a plain path")
    }

    /// The run as it was created and changed.
    pub fn run(&self) -> Option<Value> {
        self.known.lock().expect("no test panics with it").run.clone()
    }

    pub fn until_watched(&self) {
        self.until(|known| known.watched);
    }

    pub fn until_stopped(&self) {
        self.until(|known| known.run.as_ref().is_some_and(|run| run["spec"]["stop"].is_object()));
    }

    fn until(&self, seen: impl Fn(&Known) -> bool) {
        let latest = Instant::now() + Duration::from_secs(10);
        while !seen(&self.known.lock().expect("no test panics with it")) {
            assert!(Instant::now() < latest, "the server waited in vain");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a temporary file.
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

/// Answers the requests of one connection. A client that hangs up ends it.
fn serve(stream: TcpStream, shared: &Mutex<Known>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut request = String::new();
        reader.read_line(&mut request).ok().filter(|length| *length > 0)?;
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if header.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let mut words = request.split_whitespace();
        let (method, path) = (words.next()?, words.next()?);
        let known = shared.lock().ok()?.clone();
        let (status, answer) = match (method, path) {
            ("GET", path) if path.contains("watch=true") => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
                    .ok()?;
                shared.lock().ok()?.watched = true;
                // Nothing ever changes; until the client hangs up.
                reader.read_line(&mut request).ok()?;
                return None;
            }
            ("GET", path) if path.contains("/gamedayruns?") => (
                "200 OK",
                json!({
                    "apiVersion": "gameday.dev/v1alpha1", "kind": "GameDayRunList", "metadata": {"resourceVersion": "1"},
                    "items": known.run.into_iter().collect::<Vec<_>>(),
                }),
            ),
            ("POST", path) if path.contains("/gamedayruns") => {
                let mut created: Value = serde_json::from_slice(&body).ok()?;
                created["metadata"]["uid"] = "created".into();
                created["metadata"]["resourceVersion"] = "1".into();
                shared.lock().ok()?.run = Some(created.clone());
                ("201 Created", created)
            }
            ("GET", path) if path.contains("/gamedayruns/") && known.run.is_some() => ("200 OK", known.run?),
            ("PATCH", path) if path.contains("/gamedayruns/") => {
                let change: Value = serde_json::from_slice(&body).ok()?;
                let mut run = known.run?;
                run["spec"]["stop"] = change["spec"]["stop"].clone();
                shared.lock().ok()?.run = Some(run.clone());
                ("200 OK", run)
            }
            (_, _) => (
                "404 Not Found",
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "message": "not found", "code": 404}),
            ),
        };
        let answer = answer.to_string();
        write!(stream, "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())
            .ok()?;
    }
}
