//! Game days on Kubernetes. The modules, in reading order; `ARCHITECTURE.md` beside this file is the one page.

pub mod api;
pub mod engine;
pub mod probe;
pub mod turn;
