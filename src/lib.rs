//! Game days on Kubernetes. The modules, in reading order; `ARCHITECTURE.md` beside this file is the one page.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod engine;
pub mod operator;
pub mod probe;
pub mod rehearsal;
pub mod report;
pub mod turn;
