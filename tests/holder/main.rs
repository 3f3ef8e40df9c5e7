//! The holder against a process in cgroups of its own, measured from outside.

mod frame;
mod ground;
mod network;
mod resources;
