//! The command line as it is called: the real program, its output and its exit code.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::server::Server;

pub fn gameday(arguments: &[&str]) -> Output {
    // A terminal or a cluster of whoever runs the tests must not change what is seen.
    Command::new(env!("CARGO_BIN_EXE_gameday"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("KUBECONFIG", "/nonexistent/kubeconfig")
        .stdin(Stdio::null())
        .output()
        .expect("the program is built")
}

fn said(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it writes UTF-8");
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// What a file under `bad/` says of itself: where `check` must point, and the words that are the same everywhere.
struct Says {
    file: String,
    place: String,
    path: String,
    words: String,
}

fn says() -> Vec<Says> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/offline/bad");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder exists") {
        let name = entry.expect("it can be read").file_name().into_string().expect("a plain name");
        let text = std::fs::read_to_string(format!("{folder}/{name}")).expect("a file");
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned());
        let (Some(at), Some(words)) = (value("# check says at:"), value("# same words:")) else { continue };
        let (place, path) = at.split_once(": ").unwrap_or((at.trim_end_matches(':'), ""));
        let path = path.trim_end_matches(':').to_owned();
        all.push(Says { file: format!("tests/offline/bad/{name}"), place: place.to_owned(), path, words });
    }
    assert!(all.len() >= 20, "{} files say what is wrong with them", all.len());
    all
}

#[test]
fn every_mistake_is_shown_where_it_is_in_the_words_that_the_cluster_uses() {
    for Says { file, place, path, words } in says() {
        let (out, err, code) = said(&gameday(&["check", &file]));
        let path = if path.is_empty() { path } else { format!("{path}: ") };
        let begins = format!("{file}:{place}: {path}{words}");
        assert!(err.starts_with(&begins), "wanted {begins}\ngot    {err}");
        // The line itself is shown, and marked.
        let line = place.split(':').next().unwrap();
        assert!(err.contains(&format!("\n{line} |")) && err.contains('^'), "{err}");
        assert_eq!((out.as_str(), code), ("", Some(2)), "{file}");
    }
}

#[test]
fn plan_and_run_refuse_the_same_files_before_they_look_for_a_cluster() {
    for verb in ["plan", "run", "rehearse"] {
        for Says { file, .. } in says() {
            let (_, checked, _) = said(&gameday(&["check", &file]));
            let (_, err, code) = said(&gameday(&[verb, &file]));
            assert_eq!((err.as_str(), code), (checked.as_str(), Some(2)), "{verb} {file}");
        }
    }
}

#[test]
fn all_problems_are_found_at_once_and_in_order() {
    let (_, err, code) = said(&gameday(&["check", "tests/offline/bad/several.yaml"]));
    let places: Vec<&str> = err.lines().filter_map(|line| line.strip_prefix("tests/offline/bad/several.yaml:")).collect();
    let wanted = [
        "7:9: spec.keep: at least 1 and at most 200",
        "8:13: spec.baseline: a duration is written like 500ms, 30s, 5m or 1m30s, not \"10sec\"",
        "17:13: unknown field \"spec.experiments[0].fault.podKil\"",
        "18:11: spec.experiments[0].hold: 6m is longer than blastRadius.hold, 5m",
    ];
    assert_eq!(places, wanted);
    assert!(err.contains("help: did you mean \"podKill\"?"), "{err}");
    assert_eq!(code, Some(2));
}

#[test]
fn what_is_no_game_day_at_all_is_said_in_words() {
    let bad = |name: &str| format!("tests/offline/bad/{name}.yaml");
    for (file, words) in [
        (bad("empty"), ": empty: a GameDay is wanted\n  = help: a game day starts with apiVersion: gameday.dev/v1alpha1"),
        (bad("only-a-comment"), ": empty: a GameDay is wanted"),
        (bad("no-game-day"), ": no GameDay in it"),
        (bad("not-yaml"), ":2:7: not YAML: unclosed quote"),
        (bad("tabs"), ":4:2: not YAML: tabs disallowed"),
        (bad("twice"), ":8:3: not YAML: duplicate mapping key `keep`"),
        (bad("wrong-kind"), ":2:7: no kind \"Gameday\" in gameday.dev/v1alpha1"),
        (bad("wrong-group"), ":1:13: no GameDay in gameday.io/v1"),
        (bad("second-document"), ":21:11: spec.experiments[0].hold: a duration is written like"),
        (bad("not-there"), ": No such file or directory"),
        ("tests/offline/bad".to_owned(), ": Is a directory"),
    ] {
        let (_, err, code) = said(&gameday(&["check", &file]));
        assert!(err.starts_with(&format!("{file}{words}")), "{file}{words}\n{err}");
        assert_eq!(code, Some(2), "{file}");
    }
}

#[test]
fn one_bad_file_does_not_hide_the_good_ones() {
    let (out, err, code) = said(&gameday(&["check", "tests/offline/bad/nobody.yaml", "examples/checkout.yaml"]));
    assert!(out.contains("examples/checkout.yaml: checkout is sound"), "{out}");
    assert!(err.contains("nobody.yaml:17:7"), "{err}");
    assert_eq!(code, Some(2));
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gameday"))
        .arg("crds")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built");
    drop(child.stdout.take());
    let (_, err, code) = said(&child.wait_with_output().expect("it ends"));
    assert_eq!((err.as_str(), code), ("", Some(141)));
}

#[test]
fn standard_input_is_a_file_too() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gameday"))
        .args(["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built");
    child.stdin.take().expect("piped").write_all(b"kind: [").expect("it reads");
    let (_, err, code) = said(&child.wait_with_output().expect("it ends"));
    assert!(err.starts_with("standard input:1:7: not YAML: "), "{err}");
    assert_eq!(code, Some(2));
}

#[test]
fn no_cluster_is_one_line_and_exit_code_5() {
    for arguments in [&["runs"][..], &["run", "examples/checkout.yaml"], &["plan", "checkout"], &["stop", "--all"], &["release"]]
    {
        let (out, err, code) = said(&gameday(arguments));
        assert_eq!((out.as_str(), code), ("", Some(5)), "{arguments:?}: {err}");
        assert!(err.starts_with("no cluster: ") && err.lines().count() == 1, "{err}");
    }
}

#[test]
fn a_cluster_that_does_not_answer_is_one_line_and_exit_code_5() {
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let file = std::env::temp_dir().join(format!("gameday-offline-{}.kubeconfig", std::process::id()));
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    });
    std::fs::write(&file, kubeconfig.to_string()).expect("a temporary file");
    let (_, err, code) = said(&gameday(&["--kubeconfig", file.to_str().expect("a plain path"), "runs"]));
    std::fs::remove_file(&file).expect("it was written");
    assert_eq!((code, err.lines().count()), (Some(5), 1), "{err}");
    assert!(err.starts_with("no answer from the cluster: "), "{err}");
}

/// A file with its workloads beside it; a sound file is sound all the same.
#[test]
fn a_pause_longer_than_a_liveness_probe_is_patient_is_warned_of() {
    let read =
        |file: &str| std::fs::read_to_string(format!("{}/examples/{file}", env!("CARGO_MANIFEST_DIR"))).expect("an example");
    let short = format!("{}---\n{}", read("frozen-pod.yaml"), read("shop.yaml"));
    let long = short.replacen("hold: 15s", "hold: 45s", 1);
    assert_ne!(short, long);
    let file = std::env::temp_dir().join(format!("gameday-offline-{}.yaml", std::process::id()));
    let name = file.to_str().expect("a plain path");
    for (text, wanted) in [(short, 0), (long, 1)] {
        std::fs::write(&file, text).expect("a temporary file");
        for verb in ["check", "rehearse"] {
            let (out, err, _) = said(&gameday(&[verb, name]));
            let warned = out.lines().filter(|line| line.contains("warning: frozen: the kubelet restarts container shop before"));
            assert_eq!(warned.count(), wanted, "{verb}: {out}{err}");
        }
        assert_eq!(said(&gameday(&["check", name])).2, Some(0));
    }
    std::fs::remove_file(&file).expect("it was written");
}

#[test]
fn a_fault_that_does_not_exist_is_not_explained() {
    let (out, err, code) = said(&gameday(&["explain", "netwrok"]));
    assert_eq!((out.as_str(), err.as_str(), code), ("", "no fault and no field \"netwrok\": did you mean network?\n", Some(2)));
}

#[test]
fn a_mistyped_verb_is_exit_code_2() {
    assert_eq!(said(&gameday(&["rum"])).2, Some(2));
    assert_eq!(said(&gameday(&["stop"])).2, Some(2));
    assert_eq!(said(&gameday(&["--version"])).2, Some(0));
}

#[test]
fn as_a_plugin_it_speaks_of_itself_as_kubectl_gameday() {
    let plugin = std::env::temp_dir().join(format!("gameday-offline-{}", std::process::id())).join("kubectl-gameday");
    std::fs::create_dir_all(plugin.parent().expect("it has one")).expect("a temporary folder");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_gameday"), &plugin).expect("a link");
    let output = Command::new(&plugin).args(["stop", "--help"]).output().expect("the program is built");
    std::fs::remove_dir_all(plugin.parent().expect("it has one")).expect("it was made");
    assert!(said(&output).0.contains("Usage: kubectl gameday stop [OPTIONS] [RUN]"), "{:?}", said(&output));
}

/// The golden run, changed.
fn run_with(change: impl FnOnce(&mut Value)) -> Value {
    let mut run: Value = serde_saphyr::from_str(include_str!("golden/run.yaml")).expect("YAML");
    change(&mut run);
    run
}

#[test]
fn a_finished_run_ends_watching_with_its_report_and_its_exit_code() {
    let verdict = |verdict: &'static str| run_with(|run| run["status"]["verdict"] = verdict.into());
    let refused = run_with(|run| {
        run["status"]["verdict"] = "Inconclusive".into();
        run["status"]["conditions"][0]["status"] = "False".into();
    });
    for (name, run, wanted) in [
        ("passed", verdict("Passed"), 0),
        ("failed", verdict("Failed"), 1),
        ("inconclusive", verdict("Inconclusive"), 3),
        ("refused", refused, 4),
    ] {
        let server = Server::start(name, Some(run));
        let (out, err, code) = said(&gameday(&["--kubeconfig", server.kubeconfig(), "watch", "checkout-x7k2p"]));
        assert_eq!((err.as_str(), code), ("", Some(wanted)), "{name}: {out}");
        assert!(out.starts_with("   +0.1s  Started   started: "), "the record line by line: {out}");
        assert!(out.contains("\nshop/checkout-x7k2p · game day checkout\n"), "then the report: {out}");
    }
}

#[test]
fn a_run_that_does_not_exist_is_exit_code_2() {
    let server = Server::start("nothing", None);
    let (_, err, code) = said(&gameday(&["--kubeconfig", server.kubeconfig(), "watch", "nobody"]));
    assert_eq!((err.as_str(), code), ("no run nobody in namespace shop\n", Some(2)));
}

#[test]
fn a_run_that_no_operator_takes_up_is_exit_code_5_and_is_left_with_a_way_to_stop_it() {
    let server = Server::start("alone", None);
    let begun = std::time::Instant::now();
    let (out, err, code) = said(&gameday(&["--kubeconfig", server.kubeconfig(), "run", "examples/weekly.yaml"]));
    let run = server.run().expect("it was created");
    let name = run["metadata"]["name"].as_str().expect("a name");
    assert_eq!(code, Some(5), "{out}{err}");
    assert!(begun.elapsed().as_secs() >= 10, "an operator was given time");
    assert!(err.starts_with(&format!("no operator has taken up {name} within 20 s")), "{err}");
    assert!(err.contains(&format!("gameday -n shop stop {name}")), "{err}");
    // What was frozen: the file's game day, with a seed that the file does not name.
    let suffix = name.strip_prefix("weekly-").expect("named after the game day");
    assert!(suffix.len() == 5 && suffix.bytes().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit()), "{name}");
    assert_eq!(run["metadata"]["labels"]["gameday.dev/gameday"], "weekly");
    assert!(run["spec"]["gameDay"]["seed"].is_i64(), "{run}");
    assert!(out.starts_with(&format!("started shop/{name}; seed {}\n", run["spec"]["gameDay"]["seed"])), "{out}");
}

#[test]
fn ctrl_c_stops_the_run_and_a_second_one_leaves_it_alone() {
    let server = Server::start("interrupted", None);
    let child = Command::new(env!("CARGO_BIN_EXE_gameday"))
        .args(["--kubeconfig", server.kubeconfig(), "run", "examples/checkout.yaml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built");
    let interrupt = || {
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill exists");
        assert!(sent.success());
    };
    server.until_watched();
    interrupt();
    server.until_stopped();
    interrupt();
    let run = server.run().expect("it was created");
    let (out, err, code) = said(&child.wait_with_output().expect("it ends"));
    assert_eq!(run["spec"]["stop"]["reason"], "interrupted at the command line");
    assert!(out.contains("stopping: reverting what is in force"), "{out}");
    assert!(err.contains("goes on without being watched: gameday -n shop watch checkout-"), "{err}");
    assert_eq!(code, Some(3));
}
