//! Game days on Kubernetes. The modules, in reading order; `ARCHITECTURE.md` beside this file is the one page.

pub mod api;

pub mod engine;

pub mod turn;

pub mod rehearsal;

pub mod cluster;

pub mod probe;

pub mod operator;

#[cfg(target_os = "linux")]
pub mod agent;

#[cfg(target_os = "linux")]
pub mod holder;

pub mod report;

pub mod cli;
