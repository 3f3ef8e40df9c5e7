//! What the engine is told: a network fault with everything resolved. Names, Services and pods have become addresses;
//! nothing is left to choose.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use crate::api::{Cidr, Direction, Distribution, Protocol};

use super::{Refusal, packet};

/// Addresses of one order, all lists together. A change replaces all of them in one transaction; 1,000 take the
/// kernel 2 ms.
pub const ADDRESSES_MAX: usize = 10_000;
/// Entries in `to` and `except` together: each is a handful of rules that every packet passes.
pub const PEERS_MAX: usize = 256;
/// Longest mean delay: what waits takes memory that nobody is charged for.
pub const DELAY_MAX_US: u64 = 60_000_000;

/// A network fault on one network namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkOrder {
    /// For every choice by chance.
    #[serde(default)]
    pub seed: u64,
    /// Packets that the target receives, that it sends, or both.
    pub direction: Direction,
    pub effect: Effect,
    /// Hit only this percentage of the connections, whole ones, chosen by the seed. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows_percent: Option<f64>,
    #[serde(flatten)]
    pub aim: Aim,
    /// How packets reach user space on this kernel, if it is known already: trying costs 15 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_by: Option<QueueBy>,
}

/// Whose traffic is hit. Replaced while the fault runs, as Services and pods change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Aim {
    /// Nobody, when empty: a Service without endpoints must not become everyone.
    pub to: Vec<Peers>,
    /// Never these, whatever `to` says.
    #[serde(default)]
    pub except: Vec<Peers>,
}

/// Some at the other end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peers {
    /// Absent: any address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<Cidr>>,
    /// Absent: any protocol; with ports, those that have ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The other end's ports. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// The target's own ports. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_ports: Vec<PortRange>,
}

/// From the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u16, u16)", into = "(u16, u16)")]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// What happens to what is hit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Effect {
    /// Nothing passes, and connections that exist are reset at the target's end.
    Partition,
    Shape(Shape),
}

/// What happens to packets that pass, or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shape {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_percent: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<Corrupt>,
    /// This percentage leaves at once, ahead of those that are delayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reorder_percent: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bits_per_s: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delay {
    pub mean_us: u64,
    /// Uniform: to either side at most. Normal and Pareto: the standard deviation; they are cut where a packet would
    /// leave before it came.
    #[serde(default)]
    pub jitter_us: u64,
    #[serde(default)]
    pub distribution: Distribution,
    /// Of a delay with the one before it, 0 to below 1.
    #[serde(default)]
    pub correlation: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Loss {
    pub percent: f64,
    /// Mean number of packets lost in a row; 1 for independent ones.
    #[serde(default = "one")]
    pub burst: f64,
}

fn one() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Corrupt {
    pub percent: f64,
    /// With a checksum that fits: the application gets wrong bytes.
    #[serde(default)]
    pub undetected: bool,
}

/// Which expression hands packets to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum QueueBy {
    /// nftables' own `queue`.
    Native,
    /// The NFQUEUE target of xtables, for kernels without `nft_queue`.
    Xtables,
}

impl Peers {
    pub fn everyone() -> Self {
        Peers::default()
    }

    /// Whether a connection is with one of these.
    pub fn match_connection(&self, connection: &Connection) -> bool {
        let Peers { addresses, protocol, ports, own_ports } = self;
        let within = |ports: &[PortRange], port: u16| {
            ports.is_empty() || ports.iter().any(|range| (range.first..=range.last).contains(&port))
        };
        addresses.as_ref().is_none_or(|addresses| addresses.iter().any(|cidr| cidr.contains(connection.far)))
            && protocol.is_none_or(|protocol| number(protocol) == connection.protocol)
            && within(ports, connection.far_port)
            && within(own_ports, connection.near_port)
    }
}

/// One connection as the target has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub protocol: u8,
    pub near: IpAddr,
    pub near_port: u16,
    pub far: IpAddr,
    pub far_port: u16,
}

impl Aim {
    pub fn hits(&self, connection: &Connection) -> bool {
        self.to.iter().any(|peers| peers.match_connection(connection))
            && !self.except.iter().any(|peers| peers.match_connection(connection))
    }

    /// # Errors
    /// More than the kernel should be asked to look through for each packet; ports that cannot be.
    pub fn check(&self) -> Result<(), Refusal> {
        let peers = || self.to.iter().chain(&self.except);
        if peers().count() > PEERS_MAX {
            return Err(Refusal::order(format!("to and except have more than {PEERS_MAX} entries")));
        }
        if peers().flat_map(|peers| &peers.addresses).map(Vec::len).sum::<usize>() > ADDRESSES_MAX {
            return Err(Refusal::order(format!("to and except have more than {ADDRESSES_MAX} addresses; name a CIDR instead")));
        }
        for peers in peers() {
            let mut ranges = peers.ports.iter().chain(&peers.own_ports);
            if ranges.clone().any(|range| range.first > range.last) {
                return Err(Refusal::order("a range of ports begins after its end".into()));
            }
            let has_ports = peers.protocol.is_none_or(|protocol| protocol != Protocol::Icmp);
            if ranges.next().is_some() && !has_ports {
                return Err(Refusal::order("ICMP has no ports".into()));
            }
        }
        Ok(())
    }
}

impl NetworkOrder {
    /// # Errors
    /// What cannot be done on any kernel.
    pub fn check(&self) -> Result<(), Refusal> {
        self.aim.check()?;
        percent("flows", self.flows_percent)?;
        match &self.effect {
            Effect::Partition => Ok(()),
            Effect::Shape(shape) => shape.check(),
        }
    }
}

impl Shape {
    /// Whether each packet must be seen by itself: then the kernel cuts superpackets up before.
    pub fn is_per_packet(&self) -> bool {
        let Shape { delay: _, loss, duplicate_percent, corrupt, reorder_percent, rate_bits_per_s } = self;
        loss.is_some()
            || duplicate_percent.is_some()
            || corrupt.is_some()
            || reorder_percent.is_some()
            || rate_bits_per_s.is_some()
    }

    /// Whether the bytes of packets are needed.
    pub fn needs_bytes(&self) -> bool {
        self.duplicate_percent.is_some() || self.corrupt.is_some()
    }

    fn check(&self) -> Result<(), Refusal> {
        let Shape { delay, loss, duplicate_percent, corrupt, reorder_percent, rate_bits_per_s } = self;
        if *self == Shape::default() {
            return Err(Refusal::order("nothing is to happen: name a delay, a loss or another fault".into()));
        }
        if let Some(delay) = delay {
            if delay.mean_us == 0 || delay.mean_us > DELAY_MAX_US {
                return Err(Refusal::order(format!("a delay is above 0 and at most {} s", DELAY_MAX_US / 1_000_000)));
            }
            if delay.jitter_us > delay.mean_us {
                return Err(Refusal::order("jitter is at most the delay: no packet leaves before it came".into()));
            }
            if !(0.0..1.0).contains(&delay.correlation) {
                return Err(Refusal::order("correlation is from 0 to below 1".into()));
            }
        }
        if let Some(loss) = loss {
            percent("loss", Some(loss.percent))?;
            if !(1.0..=10_000.0).contains(&loss.burst) {
                return Err(Refusal::order("a burst of loss is from 1 to 10,000 packets".into()));
            }
            // Bursts of n with single packets between them lose n of n + 1.
            if loss.percent < 100.0 && loss.percent / 100.0 > loss.burst / (loss.burst + 1.0) && loss.burst > 1.0 {
                return Err(Refusal::order(format!(
                    "bursts of {} packets cannot make {} % loss: ask for longer ones",
                    loss.burst, loss.percent
                )));
            }
        }
        if reorder_percent.is_some() && delay.is_none() {
            return Err(Refusal::order("reorder needs a delay: it lets packets go ahead of those that are delayed".into()));
        }
        if *rate_bits_per_s == Some(0) {
            return Err(Refusal::order("a rate of nothing is a partition: ask for that".into()));
        }
        percent("duplicate", *duplicate_percent)?;
        percent("corrupt", corrupt.map(|corrupt| corrupt.percent))?;
        percent("reorder", *reorder_percent)
    }
}

fn percent(name: &str, value: Option<f64>) -> Result<(), Refusal> {
    match value {
        Some(value) if !(value > 0.0 && value <= 100.0) => {
            Err(Refusal::order(format!("{name} is a percentage above 0 and at most 100, not {value}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// The protocol's number in an IP header.
pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => packet::TCP,
        Protocol::Udp => packet::UDP,
        Protocol::Sctp => packet::SCTP,
        Protocol::Icmp => packet::ICMP,
    }
}

impl From<(u16, u16)> for PortRange {
    fn from((first, last): (u16, u16)) -> Self {
        PortRange { first, last }
    }
}

impl From<PortRange> for (u16, u16) {
    fn from(range: PortRange) -> Self {
        (range.first, range.last)
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        PortRange { first: port, last: port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> Result<NetworkOrder, String> {
        let order: NetworkOrder = serde_json::from_str(text).map_err(|error| error.to_string())?;
        order.check().map(|()| order).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn an_order_is_read_as_it_is_written() {
        let text = r#"{"seed":7,"direction":"In","effect":{"shape":{"delay":{"meanUs":10000,"jitterUs":0,"distribution":"Uniform","correlation":0.0}}},"flowsPercent":40.0,"to":[{"addresses":["10.0.0.0/8","fd00::1"],"protocol":"TCP","ports":[[80,80]]}],"except":[{}]}"#;
        let read = order(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let cases = [
            (r#"{"shape":{}}"#, "nothing is to happen"),
            (r#"{"shape":{"delay":{"meanUs":0}}}"#, "a delay is above 0"),
            (r#"{"shape":{"delay":{"meanUs":1000,"jitterUs":2000}}}"#, "jitter is at most the delay"),
            (r#"{"shape":{"delay":{"meanUs":1000,"correlation":1}}}"#, "correlation is from 0"),
            (r#"{"shape":{"loss":{"percent":0}}}"#, "loss is a percentage"),
            (r#"{"shape":{"loss":{"percent":90,"burst":2}}}"#, "bursts of 2 packets cannot make 90 % loss"),
            (r#"{"shape":{"reorderPercent":10}}"#, "reorder needs a delay"),
            (r#"{"shape":{"rateBitsPerS":0}}"#, "a rate of nothing"),
        ];
        for (effect, says) in cases {
            let refusal = order(&format!(r#"{{"direction":"In","effect":{effect},"to":[{{}}]}}"#)).unwrap_err();
            assert!(refusal.contains(says), "{effect}: {refusal}");
        }
        let misspelt = r#"{"direction":"In","effect":"partition","to":[{}],"flow":1}"#;
        assert!(order(misspelt).unwrap_err().contains("unknown field"));
        let icmp = r#"{"direction":"In","effect":"partition","to":[{"protocol":"ICMP","ports":[[1,1]]}]}"#;
        assert!(order(icmp).unwrap_err().contains("ICMP has no ports"));
    }

    #[test]
    fn an_aim_at_nobody_hits_nobody() {
        let connection = Connection {
            protocol: packet::TCP,
            near: [10, 0, 0, 1].into(),
            near_port: 40_000,
            far: [10, 0, 0, 2].into(),
            far_port: 80,
        };
        let with = |peers: Peers| Aim { to: vec![peers], except: vec![] };
        assert!(!Aim::default().hits(&connection));
        assert!(!with(Peers { addresses: Some(vec![]), ..Peers::default() }).hits(&connection));
        assert!(with(Peers::everyone()).hits(&connection));
        assert!(with(Peers { ports: vec![80.into()], ..Peers::default() }).hits(&connection));
        assert!(!with(Peers { own_ports: vec![80.into()], ..Peers::default() }).hits(&connection));
        assert!(!with(Peers { protocol: Some(Protocol::Udp), ..Peers::default() }).hits(&connection));
        let near = Peers { addresses: Some(vec!["10.0.0.0/30".parse().unwrap()]), ..Peers::default() };
        assert!(with(near.clone()).hits(&connection));
        assert!(!Aim { to: vec![Peers::everyone()], except: vec![near] }.hits(&connection));
    }
}
