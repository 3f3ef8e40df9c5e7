//! The shop: a small HTTP server to run game days against. Standard library only, one file.
//!
//! It answers `/` with a line about itself, after asking an upstream if it has one, and `/healthz` without.
//! It can misbehave on purpose: slow, failing, deaf to SIGTERM, or with a body that never ends.
//! It never keeps a connection, never has more than `WORKERS` of them at work, and gives none more than a few
//! seconds to say what it wants.

use std::env;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Connections answered at the same time. Enough that ten probes and a page of users do not wait on a slow upstream.
const WORKERS: usize = 64;
/// Connections accepted and not yet taken up; further ones are closed at once, as an overloaded server should.
const WAITING: usize = 256;
/// A request is a line and a few headers.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// What an upstream said is quoted, not stored.
const UPSTREAM_BYTES_MAX: u64 = 64 * 1024;
/// A journal is there to be written, not to be kept: at this size it is begun anew.
const JOURNAL_BYTES_MAX: u64 = 1024 * 1024;
/// How long a client may take to send its request or to take a piece of the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

const HELP: &str = "\
The shop: a small HTTP server to run game days against.

Usage: shop [OPTIONS]

  GET /          200 and a line naming this pod and what upstream said; 502 if upstream fails
  GET /healthz   200 and ok, without asking upstream

Options, each with its environment variable, over which the flag wins:
  --listen ADDRESS         where to listen (0.0.0.0:8080)             SHOP_LISTEN
  --upstream URL           http:// only; asked for each /             SHOP_UPSTREAM
  --upstream-timeout TIME  for the whole call, but the name (1s)      SHOP_UPSTREAM_TIMEOUT
  --delay TIME             wait before each answer (0ms)              SHOP_DELAY
  --status CODE            answer with it instead of 200              SHOP_STATUS
  --journal FILE           append a line for each /; who cannot
                           write says so and answers all the same     SHOP_JOURNAL
  --body-forever           give / a body that never ends              SHOP_BODY_FOREVER=1
  --ignore-sigterm         serve on until killed                      SHOP_IGNORE_SIGTERM=1
  --help                   this text

TIME is a number with ms or s: 20ms, 2s. SIGTERM ends the server at once.
";

#[derive(Debug, Clone, PartialEq)]
struct Options {
    listen: String,
    upstream: Option<Upstream>,
    upstream_timeout: Duration,
    delay: Duration,
    status: u16,
    journal: Option<PathBuf>,
    body_forever: bool,
    ignore_sigterm: bool,
    /// The name in each answer: the pod's, which Kubernetes gives as HOSTNAME.
    name: String,
}

/// An `http://` URL, taken apart.
#[derive(Debug, Clone, PartialEq)]
struct Upstream {
    /// host:port, as a Host header and as a name to resolve
    authority: String,
    path: String,
}

#[derive(Debug, PartialEq)]
enum Command {
    Serve(Options),
    Help,
}

fn main() -> ExitCode {
    let command = parse(env::args().skip(1), |name| env::var(name).ok());
    match command {
        Ok(Command::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Command::Serve(options)) => match serve(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("shop: {error}");
                ExitCode::FAILURE
            }
        },
        Err(problem) => {
            eprintln!("shop: {problem}; see --help");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>, environment: impl Fn(&str) -> Option<String>) -> Result<Command, String> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let mut options = Options {
        listen: variable("SHOP_LISTEN").unwrap_or_else(|| "0.0.0.0:8080".into()),
        upstream: variable("SHOP_UPSTREAM").map(|url| parse_url(&url)).transpose()?,
        upstream_timeout: parse_time(&variable("SHOP_UPSTREAM_TIMEOUT").unwrap_or_else(|| "1s".into()))?,
        delay: parse_time(&variable("SHOP_DELAY").unwrap_or_else(|| "0ms".into()))?,
        status: parse_status(&variable("SHOP_STATUS").unwrap_or_else(|| "200".into()))?,
        journal: variable("SHOP_JOURNAL").map(PathBuf::from),
        body_forever: variable("SHOP_BODY_FOREVER").is_some(),
        ignore_sigterm: variable("SHOP_IGNORE_SIGTERM").is_some(),
        name: variable("HOSTNAME").unwrap_or_else(|| "shop".into()),
    };
    while let Some(argument) = arguments.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || inline.clone().or_else(|| arguments.next()).ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--listen" => options.listen = value()?,
            "--upstream" => options.upstream = Some(parse_url(&value()?)?),
            "--upstream-timeout" => options.upstream_timeout = parse_time(&value()?)?,
            "--delay" => options.delay = parse_time(&value()?)?,
            "--status" => options.status = parse_status(&value()?)?,
            "--journal" => options.journal = Some(value()?.into()),
            "--body-forever" => options.body_forever = true,
            "--ignore-sigterm" => options.ignore_sigterm = true,
            "--help" | "-h" => return Ok(Command::Help),
            unknown => return Err(format!("unknown option {unknown}")),
        }
    }
    Ok(Command::Serve(options))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 20ms or 2s");
    let (number, unit_ms) = if let Some(number) = text.strip_suffix("ms") {
        (number, 1)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1000)
    } else {
        return Err(wrong());
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_millis(u64::from(number) * unit_ms))
}

fn parse_status(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|status| (200..=599).contains(status)).ok_or(format!("{text:?} is not a status from 200 to 599"))
}

fn parse_url(url: &str) -> Result<Upstream, String> {
    let rest = url.strip_prefix("http://").ok_or(format!("{url:?} is not an http:// URL"))?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    if authority.is_empty() || url.contains(|letter: char| letter.is_whitespace()) {
        return Err(format!("{url:?} is not a URL"));
    }
    let authority = match authority.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => authority.to_owned(),
        _ => format!("{authority}:80"),
    };
    Ok(Upstream { authority, path: path.to_owned() })
}

/// Serves until the process is killed.
///
/// # Errors
/// Only when the address cannot be listened on.
fn serve(options: Options) -> io::Result<()> {
    sigterm::on_sigterm(options.ignore_sigterm);
    let listener = TcpListener::bind(&options.listen)?;
    eprintln!("shop: {} listens on {}", options.name, listener.local_addr()?);
    let (give, take) = sync_channel(WAITING);
    start_workers(&Arc::new(options), take);
    accept(&listener, &give);
    Ok(())
}

fn start_workers(options: &Arc<Options>, take: Receiver<TcpStream>) {
    let take = Arc::new(Mutex::new(take));
    for _ in 0..WORKERS {
        let options = Arc::clone(options);
        let take = Arc::clone(&take);
        thread::spawn(move || {
            loop {
                let next = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(stream) = next else { return };
                // a client that went away is its own affair
                let _ = answer(&options, &stream);
            }
        });
    }
}

fn accept(listener: &TcpListener, give: &SyncSender<TcpStream>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // out of descriptors, or a client gone between knock and door: neither is mended by haste
                eprintln!("shop: accept: {error}");
                thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        match give.try_send(stream) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return,
        }
    }
}

fn answer(options: &Options, stream: &TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let request = Until { stream, latest: Instant::now() + CLIENT_TIMEOUT };
    let Some(path) = read_request(&mut BufReader::new(request.take(REQUEST_BYTES_MAX)))? else {
        return respond(stream, 400, "that is no request\n");
    };
    thread::sleep(options.delay);
    match path.split('?').next() {
        Some("/healthz") => respond(stream, options.status, "ok\n"),
        Some("/") if options.body_forever => respond_forever(stream, options.status),
        Some("/") => {
            let (status, mut body) = greet(options);
            if let Some(journal) = &options.journal
                && let Err(error) = note(journal, &body)
            {
                body.push_str(&format!("the journal cannot be written: {error}\n"));
            }
            respond(stream, status, &body)
        }
        _ => respond(stream, 404, "only / and /healthz are here\n"),
    }
}

/// A stream that is read until a moment, however slowly the other side sends.
struct Until<'a> {
    stream: &'a TcpStream,
    latest: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.latest.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

/// The path of the request, or nothing where there is no sense in it. The headers are read, not looked at.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut header = String::new();
    loop {
        header.clear();
        if reader.read_line(&mut header)? == 0 {
            return Ok(None);
        }
        if header.trim_end().is_empty() {
            break;
        }
    }
    let mut words = first.split_whitespace();
    Ok(match (words.next(), words.next(), words.next()) {
        (Some("GET"), Some(path), Some(version)) if version.starts_with("HTTP/1") => Some(path.to_owned()),
        _ => None,
    })
}

fn greet(options: &Options) -> (u16, String) {
    let name = &options.name;
    let Some(upstream) = &options.upstream else {
        return (options.status, format!("{name} is open\n"));
    };
    match ask(upstream, options.upstream_timeout) {
        Ok(said) => (options.status, format!("{name} is open; upstream said: {}\n", said.trim_end())),
        Err(problem) => (502, format!("{name}: {}: {problem}\n", upstream.authority)),
    }
}

/// Appends to the journal, which is opened each time: a slow or failing file system is met with each request.
fn note(journal: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(journal)?;
    if file.metadata()?.len() > JOURNAL_BYTES_MAX {
        file.set_len(0)?;
    }
    file.write_all(line.as_bytes())
}

/// Why upstream gave no good answer.
#[derive(Debug)]
enum UpstreamProblem {
    Io(io::Error),
    Late,
    Status(u16),
    NoSense,
}

impl fmt::Display for UpstreamProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(out, "{error}"),
            Self::Late => write!(out, "no answer in time"),
            Self::Status(status) => write!(out, "answered {status}"),
            Self::NoSense => write!(out, "did not answer in HTTP"),
        }
    }
}

impl From<io::Error> for UpstreamProblem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Late,
            _ => Self::Io(error),
        }
    }
}

/// What upstream said, on a fresh connection, within `timeout` and not counting the name's resolution.
fn ask(upstream: &Upstream, timeout: Duration) -> Result<String, UpstreamProblem> {
    let address = upstream.authority.to_socket_addrs()?.next().ok_or(UpstreamProblem::NoSense)?;
    let latest = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", upstream.path, upstream.authority)?;
    let mut answer = Vec::new();
    let stream = &stream;
    Until { stream, latest }.take(UPSTREAM_BYTES_MAX).read_to_end(&mut answer)?;
    read_answer(&String::from_utf8_lossy(&answer))
}

fn read_answer(answer: &str) -> Result<String, UpstreamProblem> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(UpstreamProblem::NoSense)?;
    let status: u16 = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split_whitespace().nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or(UpstreamProblem::NoSense)?;
    match status {
        200..=299 => Ok(body.to_owned()),
        _ => Err(UpstreamProblem::Status(status)),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200..=299 => "OK",
        300..=399 => "Elsewhere",
        400..=499 => "Not Here",
        _ => "Failing",
    }
}

fn respond(mut stream: &TcpStream, status: u16, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        reason(status),
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())
}

/// A good beginning and no end: until the client goes, or takes nothing for `CLIENT_TIMEOUT`.
fn respond_forever(mut stream: &TcpStream, status: u16) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} {}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n",
        reason(status)
    )?;
    loop {
        stream.write_all(b"and so on\n")?;
        thread::sleep(Duration::from_millis(100));
    }
}

/// The one thing that the standard library has no word for.
mod sigterm {
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
        fn _exit(status: i32) -> !;
    }

    const SIGTERM: i32 = 15;
    /// `SIG_IGN` on every Unix.
    const IGNORE: usize = 1;

    extern "C" fn leave(_number: i32) {
        // SAFETY: `_exit` is async-signal-safe and runs nothing of ours.
        unsafe { _exit(0) }
    }

    /// Makes SIGTERM end the process at once, or do nothing. Without this a container's first process ignores it.
    pub fn on_sigterm(ignore: bool) {
        let handler = if ignore { IGNORE } else { leave as extern "C" fn(i32) as usize };
        // SAFETY: both values are valid dispositions: SIG_IGN, or a handler that only calls `_exit`.
        unsafe { signal(SIGTERM, handler) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options, String> {
        match parse(arguments.iter().map(|text| (*text).to_owned()), |_| None)? {
            Command::Serve(options) => Ok(options),
            Command::Help => Err("help".into()),
        }
    }

    /// Serves one request with these options and returns the whole answer.
    fn once(arguments: &[&str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let options = options(arguments).unwrap();
        let server = thread::spawn(move || answer(&options, &listener.accept().unwrap().0));
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        server.join().unwrap().unwrap();
        said
    }

    #[test]
    fn flags_are_read_with_a_space_or_an_equals_sign() {
        let read = options(&["--delay", "20ms", "--upstream=http://payments", "--status=503"]).unwrap();
        assert_eq!(read.delay, Duration::from_millis(20));
        assert_eq!(read.status, 503);
        assert_eq!(read.upstream, Some(Upstream { authority: "payments:80".into(), path: "/".into() }));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (arguments, word) in [
            (vec!["--delay", "20"], "20"),
            (vec!["--status", "42"], "42"),
            (vec!["--upstream", "https://a"], "https://a"),
            (vec!["--listen"], "--listen"),
            (vec!["--frobnicate"], "--frobnicate"),
        ] {
            let problem = options(&arguments).unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn an_upstream_that_is_not_there_makes_a_502_that_names_it() {
        // port 1 on loopback has no listener
        let said = once(&["--upstream", "http://127.0.0.1:1/"]);
        assert!(said.starts_with("HTTP/1.1 502 "), "{said}");
        assert!(said.contains("127.0.0.1:1"), "{said}");
    }

    #[test]
    fn a_silent_upstream_costs_its_timeout_and_no_more() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let said = once(&["--upstream", &url, "--upstream-timeout", "50ms"]);
        assert!(said.contains("no answer in time"), "{said}");
    }

    #[test]
    fn a_bad_status_upstream_is_a_failure_and_a_good_one_is_quoted() {
        assert!(matches!(read_answer("HTTP/1.1 503 Failing\r\n\r\nno"), Err(UpstreamProblem::Status(503))));
        assert_eq!(read_answer("HTTP/1.1 200 OK\r\nA: b\r\n\r\nyes").unwrap(), "yes");
        assert!(matches!(read_answer("SSH-2.0"), Err(UpstreamProblem::NoSense)));
    }

    #[test]
    fn each_answer_is_in_the_journal_and_is_given_where_there_is_none() {
        let folder = env::temp_dir().join(format!("shop-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let journal = folder.join("journal");
        let said = once(&["--journal", journal.to_str().unwrap()]);
        assert!(said.ends_with(&std::fs::read_to_string(&journal).unwrap()), "{said}");
        std::fs::write(&journal, vec![b'.'; 1024 * 1024 + 1]).unwrap();
        once(&["--journal", journal.to_str().unwrap()]);
        assert!(std::fs::read_to_string(&journal).unwrap().ends_with("is open\n"));
        assert!(std::fs::metadata(&journal).unwrap().len() < 100);
        let said = once(&["--journal", folder.to_str().unwrap()]);
        assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("the journal cannot be written: "), "{said}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_not_a_request_is_told_so() {
        for text in ["\r\n\r\n", "GET /\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nunfinished"] {
            assert_eq!(read_request(&mut text.as_bytes()).unwrap(), None, "{text:?}");
        }
        let good = "GET /healthz?a HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(read_request(&mut good.as_bytes()).unwrap().unwrap(), "/healthz?a");
    }
}
