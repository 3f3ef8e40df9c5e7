//! Network faults: delay, jitter, loss, duplicates, corruption, reordering, a rate, a partition, for packets between one
//! network namespace and others.
//!
//! Rules of nftables, owned by a socket of this process, pick packets and hand them to a queue, where they wait in the
//! kernel until this process says what becomes of them. When it ends, the kernel takes the rules and the queue back.
//! What the target sends is delayed by way of a TAP device instead: see `tap`. Nothing is decided by the loop in
//! `engine`; everything that decides is without I/O and tested without a kernel.
//!
//! Reading order: `order`, `fate`, `jitter`, `waiting`, `line`; `ruleset`; `arrival`, `alarm`, `room`, `engine`.

mod alarm;
mod arrival;
mod bite;
mod engine;
mod fate;
mod flags;
mod flow;
pub(super) mod hold;
mod jitter;
mod line;
mod netlink;
mod nftables;
pub mod order;
mod packet;
mod plan;
mod queue;
mod room;
mod ruleset;
mod sockets;
mod sys;
mod tap;
mod waiting;

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

pub use bite::{Bite, Quantiles};
pub use engine::Engine;
pub use order::{Aim, Corrupt, Delay, Effect, Loss, NetworkOrder, Peers, PortRange, QueueBy, Shape};

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The order cannot be done on any kernel.
    #[error("{0}")]
    Order(String),
    #[error(
        "another network fault is held in this network namespace: its packets would be lost when this one ends, so there is one at a time"
    )]
    SecondFault,
    #[error("the target uses its node's own network: every pod of the node would be hit")]
    HostNetwork,
    #[error("cannot tell whether this is the node's own network, so it is not touched: {0}")]
    WhoseNetwork(io::Error),
    #[error("this kernel, or this process in it, cannot hold a network fault: {what}: {error}")]
    Kernel { what: String, error: io::Error },
    #[error(
        "what the target sends cannot be delayed here ({what}: {error}); delay what it receives instead: the round trip is the same"
    )]
    Egress { what: String, error: io::Error },
}

impl Refusal {
    fn order(says: String) -> Self {
        Refusal::Order(says)
    }

    fn kernel(what: &str, error: io::Error) -> Self {
        Refusal::Kernel { what: what.to_owned(), error }
    }

    fn egress(what: &str, error: &io::Error) -> Self {
        let error = error.raw_os_error().map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error);
        Refusal::Egress { what: what.to_owned(), error }
    }
}

/// Why a fault ended before it was stopped. Everything passes again.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the network fault could not be held: {0}")]
    Io(#[from] io::Error),
    #[error("the network fault could not be held: {0}")]
    Kernel(#[from] sys::Refused),
    #[error("who to hit now was not understood: {0}")]
    Update(String),
}

/// Puts the fault in force. See [`Engine::open`].
///
/// # Errors
/// Why nothing was done; also where this is the node's own network namespace.
pub fn open(order: &NetworkOrder) -> Result<Engine, Refusal> {
    refuse_host_network()?;
    Engine::open(order)
}

/// What this kernel, and this process in it, can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abilities {
    /// To be passed on in orders, which then start 15 ms sooner.
    pub queue_by: Option<QueueBy>,
    /// Packets leave on time also while others are busy.
    pub real_time: bool,
    /// Why what a target sends cannot be delayed; absent if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_egress_delay: Option<String>,
    /// Why a partition is not possible; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_partition: Option<String>,
}

/// Tries everything in an empty network namespace of its own, which is gone afterwards.
///
/// # Errors
/// The reason why there can be no network fault at all.
pub fn abilities() -> Result<Abilities, Refusal> {
    let failed = |error: io::Error| Refusal::kernel("a network namespace to try it in", error);
    let tried = std::thread::Builder::new().name("network-check".into()).spawn(|| {
        sys::leave_network_namespace()
            .map_err(|error| Refusal::kernel("a network namespace to try it in (needs CAP_SYS_ADMIN)", error))?;
        try_everything()
    });
    tried.map_err(failed)?.join().map_err(|_| failed(io::Error::other("the thread that tried it panicked")))?
}

fn try_everything() -> Result<Abilities, Refusal> {
    let addresses = Some(vec!["192.0.2.0/24".parse().expect("a CIDR"), "2001:db8::/32".parse().expect("a CIDR")]);
    let peers = Peers { addresses, ports: vec![80.into()], ..Peers::default() };
    let order = |direction, effect| NetworkOrder {
        seed: 0,
        direction,
        effect,
        flows_percent: Some(50.0),
        aim: Aim { to: vec![peers.clone()], except: vec![peers.clone()] },
        queue_by: None,
    };
    let delay = Shape { delay: Some(Delay { mean_us: 1_000, ..Delay::default() }), ..Shape::default() };
    let loss = Shape { loss: Some(Loss { percent: 1.0, burst: 1.0 }), duplicate_percent: Some(1.0), ..Shape::default() };
    let first = Engine::open(&order(order::Direction::Both, Effect::Shape(loss)))?;
    let (queue_by, real_time) = (first.queue_by(), first.is_real_time());
    drop(first);
    let partition = Engine::open(&order(order::Direction::Both, Effect::Partition)).and_then(|_| engine::try_reset());
    let egress = Engine::open_on(&order(order::Direction::Out, Effect::Shape(delay)), Some("lo"));
    Ok(Abilities {
        queue_by,
        real_time,
        no_egress_delay: egress.err().map(|refusal| refusal.to_string()),
        no_partition: partition.err().map(|refusal| refusal.to_string()),
    })
}

/// Reads back, by a socket that has nothing to do with the fault, what is left of one in the network namespace of this
/// thread. Nothing, if it is empty.
///
/// # Errors
/// When it cannot be known.
pub fn left_over() -> Result<Vec<String>, Failure> {
    let mut left = Vec::new();
    let fresh = sys::Netlink::open(libc::NETLINK_NETFILTER)?;
    for (family, name) in [(nftables::Family::Inet, "inet"), (nftables::Family::Netdev, "netdev")] {
        match fresh.request(&nftables::get_table(family, ruleset::TABLE)) {
            Ok(()) => left.push(format!("table {name} {}", ruleset::TABLE)),
            Err(refused) if refused.errno() == libc::ENOENT => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    if sys::device_names()?.iter().any(|device| device == tap::NAME) {
        left.push(format!("device {}", tap::NAME));
    }
    Ok(left)
}

/// Compares with a process that is always in the node's own network namespace: the kernel's thread number 2 if it can
/// be seen, which is allowed where process 1 is closed, else process 1.
fn refuse_host_network() -> Result<(), Refusal> {
    let kernel_thread = fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim_end() == "kthreadd");
    let host = if kernel_thread { "/proc/2/ns/net" } else { "/proc/1/ns/net" };
    let host = fs::read_link(host).map_err(Refusal::WhoseNetwork)?;
    let here = fs::read_link("/proc/thread-self/ns/net").map_err(Refusal::WhoseNetwork)?;
    if host == here { Err(Refusal::HostNetwork) } else { Ok(()) }
}
