//! The process that holds one fault.

pub mod network;
