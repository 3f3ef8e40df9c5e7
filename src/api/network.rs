use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Duration, Percent, Selector, says};

/// Disturb packets between the targets and others.
///
/// Everything is done to whole packets on the target's own network, so that nothing else on its node notices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.delay), has(self.loss), has(self.duplicate), has(self.corrupt), has(self.rate)].exists(x, x) != (has(self.partition) && self.partition)", says::ONE_NETWORK))]
#[x_kube(validation = ("(!has(self.jitter) && !has(self.reorder)) || has(self.delay)", says::NEEDS_DELAY))]
#[x_kube(validation = ("(!has(self.distribution) && !has(self.correlation)) || has(self.jitter)", says::NEEDS_JITTER))]
#[x_kube(validation = ("!has(self.burst) || has(self.loss)", says::NEEDS_LOSS))]
#[x_kube(validation = ("!has(self.undetected) || has(self.corrupt)", says::NEEDS_CORRUPT))]
pub struct Network {
    /// Packets that the target receives (`In`, the default), that it sends (`Out`), or both. A partition is both
    /// unless this says otherwise. A delay of what comes in lengthens a round trip just as much as one of what goes
    /// out, and costs less; `Out` needs a kernel of 5.16 or later with TAP devices, and a
    /// runtime that lets agents use them (runc 1.2.0 to 1.2.3 does not).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Hold every packet this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// Let the delay vary by this. Packets keep their order, and the delay its mean, unless `reorder` is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
    /// How the jitter is spread: `Uniform` (the default) to either side at most by `jitter`; with `Normal` and
    /// `Pareto` that is the standard deviation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
    /// How much a delay resembles the one before it. Absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Percent>,
    /// Lose this percentage of the packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Chance>,
    /// Lose packets in rows of this many on average. Absent: each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub burst: Option<u32>,
    /// Deliver this percentage of the packets twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<Chance>,
    /// Flip a bit in this percentage of the packets; the receiver's checksum notices, and drops them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<Chance>,
    /// Make the checksum of a corrupted packet fit: the application itself gets wrong bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undetected: Option<bool>,
    /// Let this percentage of the packets overtake those that are delayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reorder: Option<Chance>,
    /// Let no more pass than this, in bits a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Let nothing pass, and reset the target's connections so that it notices at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<bool>,
    /// Hit only this percentage of the connections, whole ones, chosen by the seed. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<Percent>,
    /// Only traffic with these. Absent: with everyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub to: Option<Vec<Peer>>,
    /// Never traffic with these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub except: Option<Vec<Peer>>,
    /// Disturb the kubelet's probes too. Unless this is true, all traffic with the addresses from which it probes is
    /// spared: those of the node and of the pod's gateway. That is also what the node sends on in its own name, and
    /// other pods of this node that use its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<bool>,
}

/// Some at the other end: at most one of `cidr`, `pods`, `service`, `dns`; none of them is any address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.cidr), has(self.pods), has(self.service), has(self.dns)].filter(x, x).size() <= 1", says::ONE_PEER))]
pub struct Peer {
    /// An address or a range of them, IPv4 or IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Cidr>,
    /// Pods with these labels, in `namespace`; followed as they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Selector>,
    /// A Service in `namespace`: its own addresses and those of its endpoints; followed as they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub service: Option<String>,
    /// A name, as the target knows it: by its own hosts file, else in the DNS, over its own network and by its own
    /// resolv.conf. Asked again every five seconds; an address that it once had stays one of them until the fault ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub dns: Option<String>,
    /// Of `pods` and `service`; absent: the game day's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Their ports. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(range(min = 1)))]
    pub ports: Option<Vec<u16>>,
    /// The target's own ports. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(range(min = 1)))]
    pub own_ports: Option<Vec<u16>>,
    /// Only this protocol. Absent: any. `ICMP` is ICMPv6 too, of which only echoes are touched: without the rest there is
    /// no IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    #[default]
    In,
    Out,
    Both,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Distribution {
    #[default]
    Uniform,
    Normal,
    Pareto,
}

/// `ICMP` is ICMPv6 too, of which only echoes are touched: without the rest there is no IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// A percentage of many, so that a part of one percent makes sense: above 0, at most 100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
pub struct Chance(f64);

impl Chance {
    /// # Errors
    /// Nothing at or below 0 or above 100 is a percentage here.
    pub fn new(percent: f64) -> Result<Self, &'static str> {
        if percent > 0.0 && percent <= 100.0 { Ok(Chance(percent)) } else { Err(says::CHANCE) }
    }

    pub const fn percent(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Chance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Chance::new(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

small_schema!(Chance, {
    "type": "number",
    "x-kubernetes-validations": [{"rule": "self > 0.0 && self <= 100.0", "message": says::CHANCE}],
});

/// Bits a second, written `500kbit`, `10Mbit`, `1Gbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    bits_per_s: u64,
}

const RATE_UNITS: [(&str, u64); 4] = [("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

impl Rate {
    pub const fn bits_per_s(self) -> u64 {
        self.bits_per_s
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = RATE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let number = number.parse::<u64>().ok().filter(|number| (1..1_000_000).contains(number));
        match (number, factor) {
            (Some(number), Some(factor)) => Ok(Rate { bits_per_s: number * factor }),
            _ => Err(says::RATE),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = RATE_UNITS
            .iter()
            .find(|(_, factor)| self.bits_per_s.is_multiple_of(*factor))
            .expect("the last unit divides everything");
        write!(f, "{}{unit}", self.bits_per_s / factor)
    }
}

/// An address or a range of them, IPv4 or IPv6: `10.0.0.0/8`, `10.1.2.3`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

impl Cidr {
    pub const fn first(self) -> IpAddr {
        self.first
    }

    pub fn last(self) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => IpAddr::V4((u32::from(first) | u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0)).into()),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first) | u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0)).into()),
        }
    }

    /// An IPv4 address inside an IPv6 one is the IPv4 address.
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last()
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        let first = address.to_canonical();
        Cidr { first, prefix: if first.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| says::CIDR)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| says::CIDR)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        let first = match address {
            _ if prefix > longest => return Err(says::CIDR),
            IpAddr::V4(address) => IpAddr::V4((u32::from(address) & !u32::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
        };
        Ok(Cidr { first, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.prefix) {
            (IpAddr::V4(address), 32) => write!(f, "{address}"),
            (IpAddr::V6(address), 128) => write!(f, "{address}"),
            (address, prefix) => write!(f, "{address}/{prefix}"),
        }
    }
}

/// Values that are written as text: read by `FromStr`, written by `Display`, checked by the API server with a rule.
macro_rules! written_as_text {
    ($name:ident, $schema:tt) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        small_schema!($name, $schema);
    };
}

written_as_text!(
    Rate,
    {
        "type": "string",
        "maxLength": 10,
        "x-kubernetes-validations": [{"rule": "self.matches('^[1-9][0-9]{0,5}(bit|kbit|Mbit|Gbit)$')", "message": says::RATE}],
    }
);

written_as_text!(
    Cidr,
    {
        "type": "string",
        "maxLength": 43,
        "x-kubernetes-validations": [{"rule": "isCIDR(self) || isIP(self)", "message": says::CIDR}],
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_back() {
        for (text, bits) in [("500kbit", 500_000), ("10Mbit", 10_000_000), ("1Gbit", 1_000_000_000), ("9bit", 9)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.bits_per_s(), rate.to_string()), (bits, text.to_owned()));
        }
        for text in ["", "10", "10 Mbit", "0Mbit", "Mbit", "-1Mbit", "1.5Mbit", "10mbit", "1000000Gbit"] {
            assert_eq!(text.parse::<Rate>(), Err(says::RATE), "{text}");
        }
    }

    #[test]
    fn ranges_of_addresses_are_read_and_know_their_ends() {
        let cases = [
            ("10.1.2.3", "10.1.2.3", "10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/8", "10.0.0.0/8", "10.0.0.0", "10.255.255.255"),
            ("0.0.0.0/0", "0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("fd00::1/64", "fd00::/64", "fd00::", "fd00::ffff:ffff:ffff:ffff"),
            ("::/0", "::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::1", "::1", "::1", "::1"),
        ];
        for (text, written, first, last) in cases {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(
                (cidr.to_string().as_str(), cidr.first(), cidr.last()),
                (written, first.parse().unwrap(), last.parse().unwrap())
            );
        }
        for text in ["", "10.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0.0/", "payments"] {
            assert_eq!(text.parse::<Cidr>(), Err(says::CIDR), "{text}");
        }
    }

    #[test]
    fn a_range_holds_its_ends_and_nothing_of_the_other_family() {
        let cidr: Cidr = "10.0.0.0/30".parse().unwrap();
        let held: Vec<bool> = ["9.255.255.255", "10.0.0.0", "10.0.0.3", "10.0.0.4", "::a00:1", "::ffff:10.0.0.1"]
            .map(|text| cidr.contains(text.parse().unwrap()))
            .into();
        assert_eq!(held, [false, true, true, false, false, true]);
    }
}
