//! A fault as rules: which packets are picked, and where they go. Pure: transactions in bytes.
//!
//! Each direction has a base chain that is made once and ends with the process, because removing any hook drops every
//! packet that waits anywhere in the network namespace. It counts and jumps to `…-aim`, which says whose packets are
//! hit and is replaced as a whole when that changes. `…-hit` takes the share of connections, counts, and does it.

use std::net::IpAddr;

use super::flow::{PARTS, parts};
use super::nftables::{Base, Comparison, Expression, Family, Hook, Meta, Range, Register, Transaction};
use super::order::{Aim, Peers, PortRange, Protocol, QueueBy, number};
use super::packet;

/// The name of our tables. The kernel lets only one process own a table of a name, so it is also the lock that keeps
/// a second network fault out of the namespace.
pub const TABLE: &str = "gameday";
/// On packets that we send ourselves: not hit again. "gday".
pub const MARK: u32 = 0x6764_6179;

/// A queue number that nobody holds: what is sent there vanishes.
const NOWHERE: u16 = 64_999;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const ARPHRD_LOOPBACK: u16 = 772;
/// Echo request and reply: the only ICMPv6 that may be hit. Neighbours, routers and path MTU are found by the rest.
const ECHO: [u8; 2] = [128, 129];
/// Those with ports at the front of their header.
const WITH_PORTS: [u8; 3] = [packet::TCP, packet::UDP, packet::SCTP];

/// What is done with the packets that are hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    Queue {
        number: u16,
        by: QueueBy,
    },
    Drop,
    /// Drop what goes out without telling its sender: `drop` in the output hook answers with EPERM.
    Vanish {
        by: QueueBy,
    },
    Tap {
        device: u32,
    },
}

/// The rules of one direction.
#[derive(Clone, Debug)]
pub struct Side {
    /// Also the name of its base chain.
    pub name: &'static str,
    /// The packets come to the target.
    pub incoming: bool,
    /// The device they leave by, where they are taken there.
    pub egress: Option<String>,
    pub strike: Strike,
}

/// All rules of a fault.
#[derive(Clone, Debug)]
pub struct Ruleset {
    family: Family,
    sides: Vec<Side>,
    /// Hit these many of the [`PARTS`] of all connections.
    parts: Option<u32>,
    seed: u32,
    /// Sets that are in use, to be deleted when others take their place.
    sets: Vec<String>,
    generation: u32,
}

impl Ruleset {
    /// # Assumes
    /// All `sides` are in one family of tables.
    pub fn new(sides: Vec<Side>, flows_percent: Option<f64>, seed: u64) -> Self {
        let netdev = sides.iter().any(|side| side.egress.is_some());
        Ruleset {
            family: if netdev { Family::Netdev } else { Family::Inet },
            sides,
            parts: flows_percent.map(parts),
            seed: hash_seed(seed),
            sets: Vec::new(),
            generation: 0,
        }
    }

    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether it needs a kernel that hands packets to user space.
    pub fn uses_queue(&self) -> bool {
        self.sides.iter().any(|side| matches!(side.strike, Strike::Queue { .. } | Strike::Vanish { .. }))
    }

    /// Makes the table, with everything in force.
    pub fn create(&mut self, aim: &Aim) -> Transaction {
        let mut transaction = Transaction::new(self.family, TABLE);
        transaction.own_table();
        for side in &self.sides {
            transaction.chain(&side.hit());
            for rule in self.hit_rules(side) {
                transaction.rule(&side.hit(), &rule);
            }
            transaction.chain(&side.aim());
        }
        self.write_aim(&mut transaction, aim);
        for side in &self.sides {
            let hook = match (&side.egress, side.incoming) {
                (Some(device), _) => Hook::Egress(device),
                (None, true) => Hook::Input,
                (None, false) => Hook::Output,
            };
            transaction.hook(side.name, hook, 0);
            for rule in base_rules(side) {
                transaction.rule(side.name, &rule);
            }
        }
        transaction
    }

    /// Replaces whose packets are hit.
    pub fn aim_at(&mut self, aim: &Aim) -> Transaction {
        let mut transaction = Transaction::new(self.family, TABLE);
        for side in &self.sides {
            transaction.empty(&side.aim());
        }
        for set in std::mem::take(&mut self.sets) {
            transaction.delete_set(&set);
        }
        self.write_aim(&mut transaction, aim);
        transaction
    }

    /// Lets everything pass. The hooks stay: what waits would be dropped with them.
    pub fn let_pass(&self) -> Transaction {
        let mut transaction = Transaction::new(self.family, TABLE);
        for side in &self.sides {
            transaction.empty(side.name);
        }
        transaction
    }

    /// The chains whose counters count packets, and what they count.
    pub fn counters(&self) -> Vec<(String, Counted)> {
        let chains = |side: &Side| [(side.name.to_owned(), Counted::Seen), (side.hit(), Counted::Hit)];
        self.sides.iter().flat_map(chains).collect()
    }

    fn write_aim(&mut self, transaction: &mut Transaction, aim: &Aim) {
        self.generation += 1;
        let mut sets = Sets { names: Vec::new(), generation: self.generation };
        let mut rules: Vec<(String, Vec<Expression>)> = Vec::new();
        let lists = [("except", &aim.except, None), ("to", &aim.to, Some(()))];
        for (list, peers, hit) in lists {
            for (index, peers) in peers.iter().enumerate() {
                let matches = sets.write(transaction, &format!("{list}{index}"), peers);
                for side in &self.sides {
                    let end = match hit {
                        None => Expression::Return,
                        Some(()) => Expression::Goto(side.hit()),
                    };
                    for mut rule in matches.rules(self.family, side.incoming) {
                        rule.push(end.clone());
                        rules.push((side.aim(), rule));
                    }
                }
            }
        }
        for (chain, rule) in rules {
            transaction.rule(&chain, &rule);
        }
        self.sets = sets.names;
    }

    fn hit_rules(&self, side: &Side) -> Vec<Vec<Expression>> {
        let queue = |number, bypass, by| match by {
            QueueBy::Native => vec![Expression::Queue { number, bypass }],
            QueueBy::Xtables => vec![Expression::XtablesQueue { number, bypass }],
        };
        let strike = match side.strike {
            Strike::Queue { number, by } => queue(number, true, by),
            Strike::Vanish { by } => queue(NOWHERE, false, by),
            Strike::Drop => vec![Expression::Drop],
            Strike::Tap { device } => {
                let register = Register(0);
                vec![Expression::Set { register, to: device.to_ne_bytes().to_vec() }, Expression::Forward { device: register }]
            }
        };
        let strike: Vec<Expression> = std::iter::once(Expression::Count).chain(strike).collect();
        let Some(parts) = self.parts else { return vec![strike] };
        let mut rules = Vec::new();
        for version in Version::BOTH {
            for protocol in WITH_PORTS {
                let mut rule = version.test(self.family);
                rule.extend(equal_meta(Meta::Transport, vec![protocol]));
                rule.extend(self.share(version, side.incoming, true, parts));
                rule.extend(strike.clone());
                rules.push(rule);
            }
            let mut rule = version.test(self.family);
            for protocol in WITH_PORTS {
                rule.push(Expression::LoadMeta { what: Meta::Transport, into: Register(0) });
                rule.push(Expression::Compare { register: Register(0), how: Comparison::NotEqual, with: vec![protocol] });
            }
            rule.extend(self.share(version, side.incoming, false, parts));
            rule.extend(strike.clone());
            rules.push(rule);
        }
        rules
    }

    /// The same number for all packets of a connection, in both directions; goes on if it is among those to be hit.
    fn share(&self, version: Version, incoming: bool, ports: bool, parts: u32) -> Vec<Expression> {
        let words = version.length() / 4;
        let (near, far) = version.ends(incoming);
        let load = |base, offset, length, into| Expression::Load { base, offset, length, into: Register(into) };
        let mut rule = vec![load(Base::Network, near, version.length(), 0), load(Base::Network, far, version.length(), words)];
        let mut length = 2 * version.length();
        if ports {
            let (near, far) = port_offsets(incoming);
            rule.push(load(Base::Transport, near, 2, 2 * words));
            rule.push(load(Base::Transport, far, 2, 2 * words + 1));
            length += 8;
        }
        let result = Register(12);
        rule.push(Expression::Hash { from: Register(0), length, parts: PARTS, seed: self.seed, into: result });
        rule.push(Expression::Compare { register: result, how: Comparison::Less, with: parts.to_be_bytes().to_vec() });
        rule
    }
}

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Packets that passed the hook.
    Seen,
    /// Packets that the fault was done to.
    Hit,
}

/// The kernel's hash takes 32 bits of seed.
pub fn hash_seed(seed: u64) -> u32 {
    (seed ^ (seed >> 32)) as u32
}

impl Side {
    fn aim(&self) -> String {
        format!("{}-aim", self.name)
    }

    fn hit(&self) -> String {
        format!("{}-hit", self.name)
    }
}

fn base_rules(side: &Side) -> Vec<Vec<Expression>> {
    let pass = |mut rule: Vec<Expression>| {
        rule.push(Expression::Return);
        rule
    };
    let mut rules = vec![pass(equal_meta(Meta::Mark, MARK.to_ne_bytes().to_vec()))];
    if side.egress.is_none() {
        // The target's own traffic with itself.
        let device = if side.incoming { Meta::InputType } else { Meta::OutputType };
        rules.push(pass(equal_meta(device, ARPHRD_LOOPBACK.to_ne_bytes().to_vec())));
    }
    for (how, limit) in [(Comparison::Less, ECHO[0]), (Comparison::Greater, ECHO[1])] {
        let mut rule = equal_meta(Meta::Transport, vec![packet::ICMP6]);
        rule.push(Expression::Load { base: Base::Transport, offset: 0, length: 1, into: Register(0) });
        rule.push(Expression::Compare { register: Register(0), how, with: vec![limit] });
        rules.push(pass(rule));
    }
    if side.egress.is_some() {
        // Frames are of any kind: ARP and others pass.
        for version in Version::BOTH {
            let mut rule = version.test(Family::Netdev);
            rule.extend([Expression::Count, Expression::Jump(side.aim())]);
            rules.push(rule);
        }
    } else {
        rules.push(vec![Expression::Count, Expression::Jump(side.aim())]);
    }
    rules
}

fn equal_meta(what: Meta, with: Vec<u8>) -> Vec<Expression> {
    let register = Register(0);
    vec![Expression::LoadMeta { what, into: register }, Expression::Compare { register, how: Comparison::Equal, with }]
}

/// Offsets in the transport header of the near and the far port.
fn port_offsets(incoming: bool) -> (u32, u32) {
    if incoming { (2, 0) } else { (0, 2) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Four,
    Six,
}

impl Version {
    const BOTH: [Version; 2] = [Version::Four, Version::Six];

    fn length(self) -> u32 {
        match self {
            Version::Four => 4,
            Version::Six => 16,
        }
    }

    /// Offsets in the IP header of the near and the far address.
    fn ends(self, incoming: bool) -> (u32, u32) {
        let (from, to) = match self {
            Version::Four => (12, 16),
            Version::Six => (8, 24),
        };
        if incoming { (to, from) } else { (from, to) }
    }

    fn test(self, family: Family) -> Vec<Expression> {
        match family {
            Family::Inet => {
                let number = if self == Version::Four { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
                equal_meta(Meta::Family, vec![number])
            }
            Family::Netdev => {
                let number = if self == Version::Four { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
                equal_meta(Meta::Protocol, number.to_be_bytes().to_vec())
            }
        }
    }
}

/// Writes sets and keeps their names.
struct Sets {
    names: Vec<String>,
    generation: u32,
}

/// What one entry of `to` or `except` asks for.
struct Matches {
    addresses: Addresses,
    protocols: Vec<Option<Protocol>>,
    ports: Option<String>,
    own_ports: Option<String>,
}

enum Addresses {
    Any,
    /// The set of each version that has addresses at all; `None` for all addresses of it.
    Sets(Vec<(Version, Option<String>)>),
}

impl Sets {
    fn write(&mut self, transaction: &mut Transaction, name: &str, peers: &Peers) -> Matches {
        let Peers { addresses, protocol, ports, own_ports } = peers;
        let addresses = match addresses {
            None => Addresses::Any,
            Some(cidrs) => {
                let mut sets = Vec::new();
                for version in Version::BOTH {
                    let of_version = |address: &IpAddr| address.is_ipv4() == (version == Version::Four);
                    let bounds: Vec<(u128, u128)> = cidrs
                        .iter()
                        .filter(|cidr| of_version(&cidr.first()))
                        .map(|cidr| (as_number(cidr.first()), as_number(cidr.last())))
                        .collect();
                    let length = version.length() as usize;
                    match ranges(bounds, length) {
                        Ranges::Nothing => {}
                        Ranges::Everything => sets.push((version, None)),
                        Ranges::Some(ranges) => {
                            let suffix = if version == Version::Four { "v4" } else { "v6" };
                            sets.push((version, Some(self.add(transaction, &format!("{name}-{suffix}"), length, &ranges))));
                        }
                    }
                }
                Addresses::Sets(sets)
            }
        };
        let ports = self.ports(transaction, &format!("{name}-port"), ports);
        let own_ports = self.ports(transaction, &format!("{name}-own-port"), own_ports);
        let any_with_ports = || [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(Some).to_vec();
        let protocols = match protocol {
            Some(protocol) => vec![Some(*protocol)],
            None if ports.is_some() || own_ports.is_some() => any_with_ports(),
            None => vec![None],
        };
        Matches { addresses, protocols, ports, own_ports }
    }

    fn ports(&mut self, transaction: &mut Transaction, name: &str, ports: &[PortRange]) -> Option<String> {
        let bounds = ports.iter().map(|range| (u128::from(range.first), u128::from(range.last))).collect();
        match ranges(bounds, 2) {
            Ranges::Nothing | Ranges::Everything => None,
            Ranges::Some(ranges) => Some(self.add(transaction, name, 2, &ranges)),
        }
    }

    fn add(&mut self, transaction: &mut Transaction, name: &str, length: usize, ranges: &[Range]) -> String {
        let name = format!("{name}-{}", self.generation);
        transaction.set(&name, length, ranges);
        self.names.push(name.clone());
        name
    }
}

impl Matches {
    /// The beginnings of the rules that pick these packets.
    fn rules(&self, family: Family, incoming: bool) -> Vec<Vec<Expression>> {
        let mut rules = Vec::new();
        let addresses = match &self.addresses {
            Addresses::Any => vec![Vec::new()],
            Addresses::Sets(sets) => sets
                .iter()
                .map(|(version, set)| {
                    let mut rule = version.test(family);
                    if let Some(set) = set {
                        let (_, far) = version.ends(incoming);
                        let register = Register(0);
                        rule.push(Expression::Load {
                            base: Base::Network,
                            offset: far,
                            length: version.length(),
                            into: register,
                        });
                        rule.push(Expression::InSet { set: set.clone(), register });
                    }
                    rule
                })
                .collect(),
        };
        let (near, far) = port_offsets(incoming);
        for address in addresses {
            for protocol in self.protocols.iter().flat_map(|protocol| transports(*protocol)) {
                let mut rule = address.clone();
                if let Some(protocol) = protocol {
                    rule.extend(equal_meta(Meta::Transport, vec![protocol]));
                }
                for (set, offset) in [(&self.ports, far), (&self.own_ports, near)] {
                    if let Some(set) = set {
                        let register = Register(0);
                        rule.push(Expression::Load { base: Base::Transport, offset, length: 2, into: register });
                        rule.push(Expression::InSet { set: set.clone(), register });
                    }
                }
                rules.push(rule);
            }
        }
        rules
    }
}

fn transports(protocol: Option<Protocol>) -> Vec<Option<u8>> {
    match protocol {
        None => vec![None],
        Some(Protocol::Icmp) => vec![Some(packet::ICMP), Some(packet::ICMP6)],
        Some(protocol) => vec![Some(number(protocol))],
    }
}

fn as_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ranges {
    Nothing,
    Everything,
    Some(Vec<Range>),
}

/// Ranges that neither overlap nor touch, as the kernel wants them.
fn ranges(mut bounds: Vec<(u128, u128)>, length: usize) -> Ranges {
    let greatest = u128::MAX >> (128 - 8 * length);
    bounds.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in bounds {
        match merged.last_mut() {
            Some((_, until)) if first <= until.saturating_add(1) => *until = last.max(*until),
            Some(_) | None => merged.push((first, last)),
        }
    }
    let bytes = |number: u128| number.to_be_bytes()[16 - length..].to_vec();
    match merged[..] {
        [] => Ranges::Nothing,
        [(0, last)] if last == greatest => Ranges::Everything,
        _ => Ranges::Some(
            merged
                .iter()
                .map(|(first, last)| Range { first: bytes(*first), after: (*last < greatest).then(|| bytes(last + 1)) })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u16, after: Option<u16>) -> Range {
        Range { first: first.to_be_bytes().to_vec(), after: after.map(|after| after.to_be_bytes().to_vec()) }
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_one() {
        assert_eq!(ranges(vec![], 2), Ranges::Nothing);
        assert_eq!(ranges(vec![(0, 65_535)], 2), Ranges::Everything);
        assert_eq!(ranges(vec![(0, 100), (101, 65_535)], 2), Ranges::Everything);
        assert_eq!(
            ranges(vec![(80, 80), (443, 500), (81, 90), (450, 460), (60_000, 65_535)], 2),
            Ranges::Some(vec![range(80, Some(91)), range(443, Some(501)), range(60_000, None)])
        );
        let all: u128 = u128::MAX;
        assert_eq!(ranges(vec![(0, all)], 16), Ranges::Everything);
    }

    proptest! {
        #[test]
        fn a_number_is_in_the_ranges_when_it_is_in_one_of_the_bounds(
            bounds in proptest::collection::vec((0u16.., 0u16..300), 0..12), numbers: Vec<u16>
        ) {
            let bounds: Vec<(u128, u128)> =
                bounds.into_iter().map(|(first, more)| (first.into(), first.saturating_add(more).into())).collect();
            let written = ranges(bounds.clone(), 2);
            for number in numbers.into_iter().chain(bounds.iter().map(|(_, last)| *last as u16)) {
                let asked = bounds.iter().any(|(first, last)| (*first..=*last).contains(&u128::from(number)));
                let found = match &written {
                    Ranges::Nothing => false,
                    Ranges::Everything => true,
                    Ranges::Some(ranges) => ranges.iter().any(|range| {
                        let number = number.to_be_bytes().to_vec();
                        range.first <= number && range.after.as_ref().is_none_or(|after| number < *after)
                    }),
                };
                prop_assert_eq!(found, asked);
            }
        }
    }

    fn rules(peers: Peers, incoming: bool) -> Vec<Vec<Expression>> {
        let mut sets = Sets { names: Vec::new(), generation: 1 };
        sets.write(&mut Transaction::new(Family::Inet, "t"), "to0", &peers).rules(Family::Inet, incoming)
    }

    #[test]
    fn an_entry_without_addresses_is_no_rule_and_one_for_any_is_one() {
        assert_eq!(rules(Peers { addresses: Some(vec![]), ..Peers::default() }, true), Vec::<Vec<Expression>>::new());
        assert_eq!(rules(Peers::everyone(), true), vec![Vec::new()]);
        let everyone: Vec<_> = ["0.0.0.0/0", "::/0"].map(|text| text.parse().unwrap()).into();
        assert_eq!(rules(Peers { addresses: Some(everyone), ..Peers::default() }, true).len(), 2);
    }

    #[test]
    fn the_far_end_is_the_sender_of_what_comes_in_and_the_receiver_of_what_goes_out() {
        let offsets = |incoming| {
            let addresses = Some(vec!["10.0.0.1".parse().unwrap()]);
            let peers = Peers { addresses, protocol: Some(Protocol::Tcp), ports: vec![80.into()], ..Peers::default() };
            rules(peers, incoming)
                .concat()
                .into_iter()
                .filter_map(|expression| match expression {
                    Expression::Load { base, offset, .. } => Some((base, offset)),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(offsets(true), [(Base::Network, 12), (Base::Transport, 0)]);
        assert_eq!(offsets(false), [(Base::Network, 16), (Base::Transport, 2)]);
    }

    #[test]
    fn ports_without_a_protocol_are_those_of_all_protocols_with_ports() {
        assert_eq!(rules(Peers { ports: vec![80.into()], ..Peers::default() }, true).len(), 3);
        let icmp = Peers { protocol: Some(Protocol::Icmp), ..Peers::default() };
        assert_eq!(rules(icmp, true).len(), 2);
    }
}
