//! An API server with one run in it, for what the command line makes of its answers. It knows lists, a watch that
//! says nothing, and creating; everything else is not found.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

pub struct Server {
    kubeconfig: PathBuf,
    run: Arc<Mutex<Option<Value>>>,
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
        let run = Arc::new(Mutex::new(run));
        let shared = Arc::clone(&run);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let run = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &run));
            }
        });
        Server { kubeconfig, run }
    }

    pub fn kubeconfig(&self) -> &str {
        self.kubeconfig.to_str().expect("a plain path")
    }

    /// What was created.
    pub fn run(&self) -> Option<Value> {
        self.run.lock().expect("no test panics with it").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a temporary file.
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

/// Answers the requests of one connection. A client that hangs up ends it.
fn serve(stream: TcpStream, run: &Mutex<Option<Value>>) -> Option<()> {
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
        let known = run.lock().ok()?.clone();
        let (status, answer) = match (method, path) {
            ("GET", path) if path.contains("watch=true") => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
                    .ok()?;
                // Nothing ever changes; until the client hangs up.
                reader.read_line(&mut request).ok()?;
                return None;
            }
            ("GET", path) if path.contains("/gamedayruns?") => (
                "200 OK",
                json!({
                    "apiVersion": "gameday.dev/v1alpha1", "kind": "GameDayRunList", "metadata": {"resourceVersion": "1"},
                    "items": known.into_iter().collect::<Vec<_>>(),
                }),
            ),
            ("POST", path) if path.contains("/gamedayruns") => {
                let mut created: Value = serde_json::from_slice(&body).ok()?;
                created["metadata"]["uid"] = "created".into();
                created["metadata"]["resourceVersion"] = "1".into();
                *run.lock().ok()? = Some(created.clone());
                ("201 Created", created)
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
