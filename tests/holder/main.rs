//! The holder against a process in cgroups of its own.
fn main() {}
