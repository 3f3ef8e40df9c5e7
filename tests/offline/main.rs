//! Everything that needs no cluster.

mod rehearsal;
