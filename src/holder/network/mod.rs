//! Network faults.

mod fate;
mod flow;
mod jitter;
mod netlink;
pub mod order;
mod packet;
mod queue;
mod waiting;

#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Order(String),
}
impl Refusal {
    pub fn order(s: String) -> Self { Refusal::Order(s) }
}
