//! Game days and clusters drawn from a seed: small, fast, and as unlike each other as can be.

use gameday::rehearsal::scenario::Scenario;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

pub struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.next_u64() % (high - low + 1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    fn ms(&mut self, low: u64, high: u64) -> String {
        format!("{}ms", self.between(low, high))
    }

    fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.between(1, of.len() as u64)).unwrap() - 1]
    }
}

pub fn scenario(seed: u64) -> Scenario {
    let mut dice = Dice::new(seed);
    let apps: Vec<&str> = ["checkout", "payments", "store"][..dice.between(1, 3) as usize].to_vec();
    let kinds: Vec<&str> = apps.iter().map(|_| *dice.one_of(&["Deployment", "Deployment", "StatefulSet"])).collect();
    let mut others = Vec::new();
    let mut behaviour = serde_json::Map::new();
    for (app, kind) in apps.iter().zip(&kinds) {
        others.push(json!({"kind": kind, "metadata": {"name": app}, "spec": {
            "replicas": if dice.chance(5) { dice.between(0, 1) } else { dice.between(3, 9) },
            "template": {"metadata": {"labels": {"app": app, "tier": *dice.one_of(&["front", "back"])}}},
        }}));
        if dice.chance(30) {
            let limit = if dice.chance(50) { "minAvailable" } else { "maxUnavailable" };
            let amount = if dice.chance(50) { json!(dice.between(0, 4)) } else { json!(format!("{}%", dice.between(1, 100))) };
            others.push(json!({"kind": "PodDisruptionBudget", "metadata": {"name": app}, "spec": {
                limit: amount, "selector": {"matchLabels": {"app": app}},
            }}));
        }
        let mut app_behaves = json!({"start": dice.ms(200, 6_000), "shutdown": dice.ms(0, 3_000), "latency": dice.ms(1, 200)});
        app_behaves["ignoresSigterm"] = json!(dice.chance(10));
        if dice.chance(15) {
            app_behaves["slowAfterLoss"] = json!({"latency": dice.ms(100, 900), "length": dice.ms(500, 8_000)});
        }
        app_behaves["down"] = json!(dice.chance(3));
        behaviour.insert((*app).to_owned(), app_behaves);
    }
    for node in 1..=dice.between(1, 5) {
        others.push(json!({"kind": "Node", "metadata": {"name": format!("node-{node}"),
            "labels": {"pool": *dice.one_of(&["shop", "shop", "other"])}}, "spec": {"unschedulable": dice.chance(10)}}));
    }
    let mut script = json!({"kind": "Rehearsal", "apps": behaviour});
    if dice.chance(10) {
        script["blind"] = json!([{"probe": "probe-0", "from": dice.ms(0, 8_000), "until": dice.ms(8_000, 20_000)}]);
    }
    others.push(script);
    let gameday = json!({
        "apiVersion": "gameday.dev/v1alpha1", "kind": "GameDay",
        "metadata": {"name": "drawn", "namespace": "shop"},
        "spec": {
            "hypothesis": "It holds.",
            "seed": dice.between(0, 1_000),
            "baseline": if dice.chance(20) { "0s".to_owned() } else { dice.ms(500, 3_000) },
            "recovery": dice.ms(1_000, 20_000),
            "onBreach": *dice.one_of(&["Abort", "Abort", "Continue"]),
            "blastRadius": {"targets": dice.between(1, 8), "percent": dice.between(30, 100), "hold": "5m"},
            "steadyState": probes(&mut dice, &apps, &kinds),
            "experiments": experiments(&mut dice, &apps, &kinds),
        },
    });
    Scenario { gameday: serde_json::from_value(gameday).unwrap(), others }
}

fn probes(dice: &mut Dice, apps: &[&str], kinds: &[&str]) -> Vec<Value> {
    let count = dice.between(1, 2);
    (0..count)
        .map(|number| {
            let at = usize::try_from(dice.between(1, apps.len() as u64)).unwrap() - 1;
            let (app, kind) = (apps[at], kinds[at]);
            let every = dice.between(200, 1_500);
            let mut probe = json!({"name": format!("probe-{number}"), "every": format!("{every}ms"),
                "timeout": dice.ms(100, 2 * every), "breachAfter": dice.between(1, 4)});
            match dice.between(1, 3) {
                1 => probe["http"] = json!({"url": format!("http://{app}.shop.svc/")}),
                2 => probe["tcp"] = json!({"address": format!("{app}.shop.svc:80")}),
                _ => {
                    probe["workload"] = json!({"kind": kind, "name": app});
                    probe["expect"] = json!({"ready": {"percent": dice.between(1, 80)}});
                }
            }
            probe
        })
        .collect()
}

fn experiments(dice: &mut Dice, apps: &[&str], kinds: &[&str]) -> Vec<Value> {
    let count = dice.between(1, 4);
    let mut names: Vec<String> = Vec::new();
    (0..count)
        .map(|number| {
            let at = usize::try_from(dice.between(1, apps.len() as u64)).unwrap() - 1;
            let (app, kind) = (apps[at], kinds[at]);
            let mut experiment = json!({"name": format!("experiment-{number}"), "hold": dice.ms(500, 10_000)});
            let selector = if dice.chance(85) { json!({"app": app}) } else { json!({"tier": "front"}) };
            let every = dice.chance(40).then(|| dice.ms(1_000, 4_000));
            let grace = dice.chance(70).then(|| format!("{}s", dice.between(0, 3)));
            (experiment["targets"], experiment["fault"]) = match dice.between(1, 8) {
                1 | 2 => {
                    let mut kill = json!({});
                    if let Some(every) = every {
                        kill["every"] = json!(every);
                    }
                    if let Some(grace) = grace {
                        kill["gracePeriod"] = json!(grace);
                    }
                    (json!({"pods": {"matchLabels": selector}}), json!({"podKill": kill}))
                }
                3 => {
                    let evict = every.map_or(json!({}), |every| json!({"every": every}));
                    (json!({"pods": {"matchLabels": selector}}), json!({"podEvict": evict}))
                }
                4 | 5 => {
                    let to = if dice.chance(60) {
                        json!({"replicas": dice.between(1, 9)})
                    } else {
                        json!({"percent": dice.between(50, 100)})
                    };
                    (json!({"workload": {"kind": kind, "name": app}}), json!({"scale": to}))
                }
                6 | 7 => {
                    let fault = match dice.between(1, 4) {
                        1 => json!({"cpu": {"percent": 50}}),
                        2 => json!({"pause": {}}),
                        3 => json!({"network": {"partition": true}}),
                        _ => json!({"network": {"delay": dice.ms(10, 900)}}),
                    };
                    (json!({"pods": {"matchLabels": selector}}), fault)
                }
                _ => (json!({"nodes": {"matchLabels": {"pool": "shop"}}}), json!({"cordon": {}})),
            };
            if experiment["targets"].get("workload").is_none() && dice.chance(60) {
                experiment["targets"]["choose"] =
                    if dice.chance(60) { json!({"count": dice.between(1, 2)}) } else { json!({"percent": dice.between(10, 70)}) };
            }
            if dice.chance(60) {
                let after: Vec<String> = names.iter().filter(|_| dice.chance(40)).cloned().collect();
                experiment["after"] = json!(after);
            }
            names.push(format!("experiment-{number}"));
            experiment
        })
        .collect()
}
