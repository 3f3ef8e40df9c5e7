//! Every file under `examples/` works as it is shown.

use super::cli::gameday;

const GAME_DAYS: [&str; 5] = ["checkout", "node-drain", "payments-down", "rolling-kill", "weekly"];

#[test]
fn each_example_is_sound() {
    let mut found: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"))
        .expect("examples exist")
        .filter_map(|entry| entry.expect("it can be read").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
        .filter(|name| name != "shop")
        .collect();
    found.sort();
    assert_eq!(found, GAME_DAYS);
    for name in GAME_DAYS {
        let output = gameday(&["check", &format!("examples/{name}.yaml")]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
