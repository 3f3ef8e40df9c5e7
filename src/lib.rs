//! Game days on Kubernetes. The modules, in reading order; `ARCHITECTURE.md` beside this file is the one page.

pub mod api;
pub mod engine;
#[cfg(target_os = "linux")]
pub mod holder;
pub mod turn;
