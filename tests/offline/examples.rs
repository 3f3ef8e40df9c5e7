//! Every file under `examples/` works as it is shown.

use std::collections::BTreeSet;

use gameday::api::{FaultKind, GameDay};

use super::cli::gameday;

const GAME_DAYS: [&str; 13] = [
    "checkout",
    "cut-off",
    "frozen-pod",
    "full-disk",
    "lossy-link",
    "node-drain",
    "out-of-processes",
    "payments-down",
    "pressure",
    "rolling-kill",
    "slow-files",
    "slow-network",
    "weekly",
];

const GUARDRAILS: [&str; 2] = ["guardrail", "guardrail-production"];

#[test]
fn each_example_is_sound() {
    let mut found: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"))
        .expect("examples exist")
        .filter_map(|entry| entry.expect("it can be read").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
        .filter(|name| name != "shop")
        .collect();
    found.sort();
    let mut all = [&GAME_DAYS[..], &GUARDRAILS[..]].concat();
    all.sort_unstable();
    assert_eq!(found, all);
    for name in all {
        let output = gameday(&["check", &format!("examples/{name}.yaml")]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn each_kind_of_fault_has_an_example() {
    let mut shown = BTreeSet::new();
    for name in GAME_DAYS {
        let text = std::fs::read_to_string(format!("{}/examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"))).expect("an example");
        let game_day: GameDay = serde_saphyr::from_str(&text).expect("a game day");
        shown.extend(game_day.spec.experiments.iter().flat_map(|experiment| experiment.fault.kinds()).map(FaultKind::name));
    }
    assert_eq!(shown, BTreeSet::from(FaultKind::ALL.map(FaultKind::name)));
}

/// Alone, as in the README, with a made-up application; and with the application that they are written for.
#[test]
fn each_example_passes_its_rehearsal() {
    for name in GAME_DAYS {
        let file = format!("examples/{name}.yaml");
        for files in [&[file.as_str()][..], &[file.as_str(), "examples/shop.yaml"]] {
            let output = gameday(&[&["rehearse"], files].concat());
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(0), "{files:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
            assert!(said.contains("verdict     Passed") && !said.contains("BROKEN"), "{said}");
        }
    }
}

#[test]
fn without_a_file_the_example_is_rehearsed_and_always_the_same() {
    let (bare, named) = (gameday(&["rehearse"]), gameday(&["rehearse", "examples/checkout.yaml"]));
    assert_eq!(bare.status.code(), Some(0));
    assert_eq!(bare.stdout, named.stdout);
    assert_ne!(bare.stdout, gameday(&["rehearse", "--seed", "2"]).stdout);
}

/// An operator that is killed changes who acts, not what is done.
#[test]
fn a_crash_can_be_rehearsed() {
    let calm = gameday(&["rehearse", "-o", "json"]);
    let calm: serde_json::Value = serde_json::from_slice(&calm.stdout).expect("JSON");
    let output = gameday(&["rehearse", "--crash-at", "5"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("Misfortune"), "{said}");
    let victim = calm["status"]["experiments"][0]["targets"][0]["uid"].as_str().expect("a victim");
    assert!(said.contains(victim), "{victim} is not in:\n{said}");
}
