//! What only a real Kubernetes can show. Needs the lab: `tests/run` brings it up, or `tests/lab/lab up` with
//! the images loaded, `GAMEDAY_LAB` and `KUBECONFIG` set, and its `bin` first in `PATH`. Without it every test
//! here fails and says so; plain `cargo test` does not run them.

mod abort;
mod aims;
mod budget;
mod cord;
mod crash;
mod deletion;
mod examples;
mod fifty;
mod guardrails;
mod held;
mod install;
mod kinds;
mod lab;
mod leaders;
mod many;
mod outage;
mod passes;
mod refusals;
mod restarts;
mod schedule;
mod sigterm;
mod statefulset;
