//! Everything that needs no cluster: one crate, because each costs a link.

mod chance;
mod cli;
mod examples;
mod generated;
mod house;
mod rehearsal;
mod server;
