//! Files that the program writes and people read: they must be what it would write today. `UPDATE=1 cargo test
//! --test offline generated` writes them.

use std::path::Path;

use super::cli::gameday;

fn written(arguments: &[&str]) -> String {
    let output = gameday(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it writes UTF-8")
}

/// Compares a file with what it should be, or writes it.
pub fn same(file: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
        std::fs::write(&path, wanted).expect("it can be written");
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    let line = differs.unwrap_or_else(|| found.lines().count().min(wanted.lines().count()));
    assert!(
        found == wanted,
        "{file} differs in line {}:\nfound  {:?}\nwanted {:?}\nUPDATE=1 cargo test --test offline writes it",
        line + 1,
        found.lines().nth(line),
        wanted.lines().nth(line),
    );
}

#[test]
fn the_manifests_are_those_that_install_writes() {
    same("deploy/install.yaml", &written(&["install"]));
}

#[test]
fn the_crds_are_those_of_the_types() {
    let all = written(&["crds"]);
    let documents: Vec<&str> = all.split("---\n").skip(1).collect();
    for (name, document) in ["gamedays", "gamedayruns", "cords", "guardrails", "injections"].into_iter().zip(&documents) {
        assert!(document.contains(&format!("name: {name}.gameday.dev\n")), "{name} is in its place");
        same(&format!("crds/{name}.yaml"), document);
    }
    assert_eq!(documents.len(), 5);
}

#[test]
fn the_help_is_what_was_agreed() {
    let verbs = [
        "check",
        "plan",
        "rehearse",
        "run",
        "inject",
        "explain",
        "watch",
        "stop",
        "release",
        "approve",
        "answer",
        "note",
        "runs",
        "report",
        "doctor",
        "allow",
        "install",
        "crds",
        "completions",
        "operator",
        "agent",
        "hold",
    ];
    let mut help = written(&["--help"]);
    for verb in verbs {
        help.push_str(&format!("\n==== gameday {verb} --help\n{}", written(&[verb, "--help"])));
    }
    same("tests/offline/golden/help.txt", &help);
}

/// The list, a fault of each kind of shape, and a field of a game day and of a guardrail.
#[test]
fn what_can_be_written_is_explained_from_the_schema() {
    let mut text = String::new();
    for what in
        ["", "podKill", "scale", "network", "network.to", "pause", "diskIo", "spec.steadyState", "--kind Guardrail spec.reach"]
    {
        let arguments: Vec<&str> = std::iter::once("explain").chain(what.split_whitespace()).collect();
        text.push_str(&format!("==== gameday {}\n{}\n", arguments.join(" "), written(&arguments)));
    }
    same("tests/offline/golden/explain.txt", &text);
}

#[test]
fn the_operator_may_read_no_secrets_and_nothing_is_granted_by_wildcard() {
    let manifests = written(&["install"]);
    let roles: Vec<&str> = manifests.split("---\n").filter(|document| document.contains("\nrules:")).collect();
    assert_eq!(roles.len(), 10);
    for role in roles {
        assert!(!role.contains('*') && !role.contains("secrets"), "{role}");
    }
}

#[test]
fn an_image_a_namespace_and_one_replica_can_be_asked_for() {
    let manifests = written(&["install", "--image", "example.test/gameday:7", "--replicas", "1", "-n", "chaos"]);
    assert!(manifests.contains("image: example.test/gameday:7"));
    assert!(manifests.contains("replicas: 1\n"));
    assert!(!manifests.contains("PodDisruptionBudget"), "a budget of one over one replica blocks every drain");
    assert!(!manifests.contains("namespace: gameday\n"));
}

#[test]
fn completions_are_written_for_the_shells_that_people_use() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(written(&["completions", shell]).contains("rehearse"), "{shell}");
    }
}

#[test]
fn a_report_shows_the_evidence_in_each_form() {
    let run = "tests/offline/golden/run.yaml";
    for (form, file) in [("text", "report.txt"), ("markdown", "report.md"), ("json", "report.json")] {
        same(&format!("tests/offline/golden/{file}"), &written(&["report", run, "-o", form]));
    }
}
