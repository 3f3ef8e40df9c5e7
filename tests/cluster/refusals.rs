use std::path::PathBuf;
use std::time::Duration;

use crate::lab::{Lab, PATIENCE, eventually, gameday, runtime, text, try_apply};

/// What `check` says without a cluster, `plan` says, and the cluster says: the API server when it is applied,
/// or the operator in the game day's `Accepted` condition.
#[test]
fn bad_game_days_are_refused_by_check_plan_and_cluster_with_the_same_words() {
    runtime().block_on(async {
        let mut lab = Lab::new("refusals").await;
        lab.operator("one");
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/offline/bad");
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
            .expect("the folder of bad game days")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .collect();
        files.sort();
        let mut compared = 0;
        for file in files {
            let yaml = std::fs::read_to_string(&file).unwrap();
            // The words that must be the same stand in the file itself.
            let Some(words) = yaml.lines().find_map(|line| line.strip_prefix("# same words: ")) else { continue };
            compared += 1;
            let path = file.to_str().unwrap();
            for verb in ["check", "plan"] {
                let said = gameday(&[verb, path]);
                assert_eq!(said.status.code(), Some(2), "{verb} {path}: {}", text(&said));
                assert!(text(&said).contains(words), "{verb} {path} does not say {words:?}:\n{}", text(&said));
            }
            let named = with_namespace(&yaml, &lab.namespace);
            let applied = try_apply(&named);
            if !applied.status.success() {
                assert!(text(&applied).contains(words), "the API server on {path} does not say {words:?}:\n{}", text(&applied));
                continue;
            }
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            let game_days = lab.game_days();
            eventually(&format!("the operator says {words:?} of {name}"), PATIENCE.min(Duration::from_secs(20)), async || {
                let found = game_days.list(&Default::default()).await.ok()?;
                let conditions = found.into_iter().filter_map(|game_day| game_day.status).flat_map(|status| status.conditions);
                conditions.into_iter().any(|condition| condition.message.contains(words)).then_some(())
            })
            .await;
        }
        assert!(compared >= 8, "only {compared} files say what must be the same");
    });
}

fn with_namespace(yaml: &str, namespace: &str) -> String {
    let lines = yaml.lines().map(|line| match line.strip_prefix("  namespace:") {
        Some(_) => format!("  namespace: {namespace}"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
