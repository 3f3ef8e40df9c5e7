//! House rules, each with its reason. They read the source; what they cannot see is left to reviewers.

use std::path::{Path, PathBuf};

struct File {
    path: String,
    /// Without tests.
    code: String,
}

/// The source of a room, without what is compiled for tests only.
fn source(room: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut waiting: Vec<PathBuf> =
        [root.join(room), root.join(format!("{room}.rs"))].into_iter().filter(|path| path.exists()).collect();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            // The files of a tests.rs.
            if path.file_name().is_some_and(|name| name == "tests") {
                continue;
            }
            waiting.extend(std::fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("it can be read").path()));
        } else if path.file_name().is_none_or(|name| name != "tests.rs") && path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            // Tests are the last thing in a file.
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let path = path.strip_prefix(&root).expect("inside").display().to_string();
            files.push(File { path, code: code.join("\n") });
        }
    }
    files
}

/// Rooms that exist already, of those named.
fn rooms<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|room| !source(room).is_empty()).collect()
}

/// Lines of a room that contain one of these words, as `path: line`.
fn lines_with(room: &str, words: &[&str]) -> Vec<String> {
    let found = |file: &File| -> Vec<String> {
        let lines = file.code.lines().filter(|line| words.iter().any(|word| line.contains(word)));
        lines.map(|line| format!("{}: {}", file.path, line.trim())).collect()
    };
    source(room).iter().flat_map(found).collect()
}

const ROOMS: [&str; 11] =
    ["api", "engine", "turn", "cluster", "rehearsal", "probe", "operator", "agent", "holder", "report", "cli"];

/// The design's table of rooms: a core that imports its shell cannot be rehearsed.
#[test]
fn each_room_imports_only_what_it_may() {
    let may: [(&str, &[&str]); 10] = [
        ("api", &["api"]),
        ("engine", &["api", "engine"]),
        ("turn", &["api", "engine", "turn"]),
        ("probe", &["api", "engine", "probe"]),
        ("cluster", &["api", "engine", "turn", "probe", "cluster"]),
        ("rehearsal", &["api", "engine", "turn", "rehearsal"]),
        ("operator", &["api", "engine", "turn", "cluster", "probe", "operator"]),
        ("agent", &["api", "engine", "cluster", "holder", "agent"]),
        ("holder", &["api", "holder"]),
        ("report", &["api", "report"]),
    ];
    let mut checked = 0;
    for (room, allowed) in may {
        for file in source(room) {
            for import in file.code.split("crate::").skip(1) {
                let name: String = import.chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '_').collect();
                checked += 1;
                assert!(!ROOMS.contains(&name.as_str()) || allowed.contains(&name.as_str()), "{}: crate::{name}", file.path);
            }
        }
    }
    assert!(checked > 10, "the rule has something to look at");
}

/// A decision that reads a clock cannot be replayed; one that waits cannot be tested.
#[test]
fn the_engine_has_no_clock_no_io_and_no_chance() {
    let words = [
        "Timestamp::now",
        "Zoned::now",
        "Instant",
        "SystemTime",
        "std::fs",
        "TcpStream",
        "std::env",
        "async ",
        ".await",
        "tokio",
        "kube::",
        "tracing::",
        "rand::rng",
        "RandomState",
    ];
    assert_eq!(lines_with("engine", &words), Vec::<String>::new());
}

/// The rehearsal is deterministic only as long as nothing in it can reach a clock, a socket or a scheduler.
#[test]
fn the_rehearsal_reaches_neither_cluster_nor_clock() {
    let words = ["kube::", "k8s_openapi", "tokio", "Timestamp::now", "Instant", "SystemTime", "std::net", "RandomState"];
    for room in rooms(&["rehearsal"]) {
        assert_eq!(lines_with(room, &words), Vec::<String>::new());
    }
}

/// A new fault or phase must be thought of everywhere; a catch-all would think for it.
#[test]
fn the_engine_matches_whole() {
    assert_eq!(lines_with("engine", &[" _ =>", " _ if "]), Vec::<String>::new());
}

/// A panic in an operator leaves faults in force until another has taken over.
#[test]
fn nothing_unwraps_outside_tests() {
    for room in ROOMS {
        assert_eq!(lines_with(room, &[".unwrap()", "todo!", "unimplemented!", "panic!("]), Vec::<String>::new());
    }
}

/// They panic on a closed pipe.
#[test]
fn nothing_prints_past_the_output() {
    for room in ROOMS.into_iter().chain(["main"]) {
        assert_eq!(lines_with(room, &["println!", "print!("]), Vec::<String>::new());
    }
}

/// The type of an error is what a caller can act on.
#[test]
fn only_the_command_line_has_errors_without_a_type() {
    for room in ROOMS.into_iter().filter(|room| *room != "cli") {
        assert_eq!(lines_with(room, &["anyhow"]), Vec::<String>::new());
    }
}

/// One object with a field of a later version would stop the watch of all.
#[test]
fn objects_of_a_later_version_can_still_be_read() {
    assert_eq!(lines_with("api", &["deny_unknown_fields"]), Vec::<String>::new());
}

/// Whatever the program does is built from these; a room without source would pass every rule.
#[test]
fn the_rules_see_the_source() {
    for room in ["api", "engine", "turn", "rehearsal", "report", "cli"] {
        assert!(!source(room).is_empty(), "{room}");
    }
}
