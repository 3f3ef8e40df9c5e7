//! Everything that needs no cluster: one crate, because each costs a link.

mod cli;
mod examples;
mod generated;
mod house;
