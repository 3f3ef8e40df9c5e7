//! The holder against a process in cgroups and a network of its own, measured from outside. Needs root: run by
//! `tests/run`, which says so where it is not.

mod frame;
mod ground;
mod network;
mod resources;
