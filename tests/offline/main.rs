//! Everything that needs no cluster.

mod chance;
mod rehearsal;
