//! The pretended world: scenarios as text, each call site crashed in turn, seeds by the thousand.

use std::path::{Path, PathBuf};

use gameday::rehearsal::Options;
use gameday::rehearsal::scenario;

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offline/scenarios");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    found.sort();
    found
}

#[test]
fn every_scenario_unfolds_as_written_down() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for path in scenarios() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let read = scenario::read(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|why| panic!("{name}: {why}"));
        let (unfolded, rehearsed) = scenario::unfold(&read, &Options::default()).unwrap_or_else(|why| panic!("{name}: {why}"));
        for violation in &rehearsed.violations {
            wrong.push(format!("{name}: {violation}"));
        }
        let golden = path.with_extension("txt");
        if update {
            std::fs::write(&golden, &unfolded).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != unfolded {
            wrong.push(format!("{name} unfolds otherwise than written down (UPDATE=1 rewrites it):\n{unfolded}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
