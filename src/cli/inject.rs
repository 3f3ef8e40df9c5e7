use std::collections::BTreeMap;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{Duration, GameDay, OnRestart};
use crate::engine::admit;

use super::connect::Connection;
use super::schema::{self, MisfitKind};
use super::span::Node;
use super::{Cluster, Exit, Failure, Output, document, run};

/// Inject one fault once, with a probe that watches and a blast radius; Ctrl-C reverts it
///
/// gameday inject network delay=200ms jitter=20ms --pods app=checkout --http http://checkout.shop.svc/healthz --for 1m
#[derive(Debug, Args)]
pub struct Inject {
    /// As a game day names it: podKill, network, cpu, memory, ...; gameday explain lists them
    #[arg(value_name = "FAULT")]
    fault: String,
    /// What of it, as in a game day: delay=200ms, percent=80; gameday explain FAULT shows all
    #[arg(value_name = "WORD=VALUE", value_parser = word)]
    words: Vec<(String, Value)>,
    /// Pods with these labels: app=checkout,tier=front
    #[arg(long, value_name = "LABELS", value_parser = labels, required_unless_present = "nodes")]
    pods: Option<BTreeMap<String, String>>,
    /// Nodes with these labels
    #[arg(long, value_name = "LABELS", value_parser = labels, conflicts_with = "pods")]
    nodes: Option<BTreeMap<String, String>>,
    /// The container in each pod; otherwise the first
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// What becomes of the fault when its container restarts meanwhile
    #[arg(long, value_enum, value_name = "WHAT", default_value_t, ignore_case = true)]
    on_restart: OnRestart,
    /// How many of them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    count: i32,
    /// For how long
    #[arg(long = "for", value_name = "LENGTH", default_value = "30s")]
    hold: Duration,
    /// At most this part of the pods or nodes
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,
    /// This URL must go on answering with 200, or the fault is reverted at once
    #[arg(long, value_name = "URL")]
    http: String,
    /// And within this time
    #[arg(long, value_name = "LENGTH", default_value = "1s")]
    latency: Duration,
    /// In whose name
    #[arg(long, value_name = "NAME", default_value = "default")]
    service_account: String,
}

impl Inject {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let game_day = self.game_day()?;
        admit::admit(&game_day.spec).map_err(Failure::invalid)?;
        let connection = Connection::open(cluster).await?;
        run::start(&connection, &game_day, None, None, output).await
    }

    pub fn game_day(&self) -> Result<GameDay, Failure> {
        let words: serde_json::Map<String, Value> = self.words.iter().cloned().collect();
        self.check(&words)?;
        let mut targets = json!({"choose": {"count": self.count}});
        if let Some(labels) = &self.pods {
            targets["pods"] = json!({"matchLabels": labels});
        }
        if let Some(labels) = &self.nodes {
            targets["nodes"] = json!({"matchLabels": labels});
        }
        if let Some(container) = &self.container {
            targets["container"] = json!(container);
        }
        let mut experiment =
            json!({"name": self.fault, "targets": targets, "fault": {self.fault.as_str(): words}, "hold": self.hold});
        if !self.on_restart.is_default() {
            experiment["onRestart"] = json!(self.on_restart);
        }
        let name = format!("inject-{}", self.fault.to_lowercase());
        let game_day = json!({
            "apiVersion": "gameday.dev/v1alpha1",
            "kind": "GameDay",
            "metadata": {"name": name},
            "spec": {
                "hypothesis": format!("{} answers within {}", self.http, self.latency),
                "serviceAccountName": self.service_account,
                "steadyState": [{
                    "name": "answers",
                    "http": {"url": self.http},
                    "timeout": self.latency,
                    "expect": {"status": [200], "latency": self.latency},
                }],
                "blastRadius": {"targets": self.count, "percent": self.percent, "hold": self.hold},
                "baseline": "3s",
                "experiments": [experiment],
            },
        });
        GameDay::deserialize(game_day).map_err(|why| Failure::invalid(format!("{}: {why}", self.fault)))
    }

    /// The words beside the fault's schema: what is wrong is said of the word, not of the game day that comes of it.
    fn check(&self, words: &serde_json::Map<String, Value>) -> Result<(), Failure> {
        let schema = document::spec_schema::<GameDay>();
        let faults = &schema["properties"]["experiments"]["items"]["properties"]["fault"]["properties"];
        let fault = &self.fault;
        if !faults[fault].is_object() {
            let known: Vec<&str> = faults.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            let help = match schema::nearest(fault, &known) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the faults are {}", known.join(", ")),
            };
            return Err(Failure::invalid(format!("no fault {fault:?}: {help}")));
        }
        let text = Value::Object(words.clone()).to_string();
        let node: Node = serde_saphyr::from_str(&text).map_err(|why| Failure::invalid(format!("{fault}: {why}")))?;
        let misfits = schema::misfits(&node, &faults[fault], "", None).into_iter().map(|misfit| match misfit.kind {
            MisfitKind::Unknown => {
                let help = misfit.help.map(|help| format!(": {help}")).unwrap_or_default();
                format!("{fault}: {}{help}", misfit.message)
            }
            MisfitKind::Shape | MisfitKind::Bounds => format!("{fault}: {}: {}", misfit.path, misfit.message),
        });
        let said: Vec<String> = misfits.collect();
        if said.is_empty() { Ok(()) } else { Err(Failure::invalid(said.join("\n"))) }
    }
}

fn word(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("written WORD=VALUE, like delay=200ms")?;
    let value = serde_saphyr::from_str(value).map_err(|why| format!("{value}: {why}"))?;
    Ok((name.to_owned(), value))
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.split(',').map(pair).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::api::Bytes;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        inject: Inject,
    }

    fn game_day(words: &[&str]) -> Result<GameDay, String> {
        let line = ["inject", "--http", "http://shop/", "--pods", "app=shop"].iter().chain(words);
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        line.inject.game_day().map_err(|failure| failure.to_string())
    }

    #[test]
    fn words_are_read_as_a_game_day_writes_them() {
        let game_day = game_day(&["memory", "bytes=256Mi", "ramp=10s", "--on-restart", "reinject"]).unwrap();
        let experiment = &game_day.spec.experiments[0];
        let memory = experiment.fault.memory.as_ref().unwrap();
        assert_eq!((memory.bytes.map(Bytes::get), memory.ramp), (Some(256 << 20), Duration::from_secs(10)));
        assert_eq!(experiment.on_restart, OnRestart::Reinject);
    }

    #[test]
    fn what_is_no_word_or_no_value_is_refused_by_name() {
        for (words, said) in [
            (&["memory", "byts=1"][..], "memory: unknown field \"byts\": did you mean \"bytes\"?"),
            (
                &["memory", "bytes=1MB"],
                "memory: bytes: bytes are a whole number, or written like 64Ki, 256Mi or 2Gi, not \"1MB\"",
            ),
            (&["network", "delay=100"], "network: delay: a duration is written like 500ms, 30s, 5m or 1m30s, not 100"),
            (&["cpu", "percent=20%"], "cpu: percent: a percentage is a whole number from 1 to 100, not \"20%\""),
            (&["files", "delay=50ms"], "files: path: Required value"),
            (&["netwrok"], "no fault \"netwrok\": did you mean network?"),
            (&["container-kill"], "did you mean containerKill?"),
            (&["storm"], "the faults are containerKill, cordon"),
            (&["cpu", "percent=20", "--percent", "200"], "200 is not in 1..=100"),
            (&["memory", "bytes"], "written WORD=VALUE"),
            (&["memory", "bytes=1", "--on-restart", "hope"], "possible values: Lose, Reinject"),
        ] {
            let refused = game_day(words).unwrap_err();
            assert!(refused.contains(said), "{words:?}: {refused}");
        }
    }
}
