//! IP packets as bytes: what they are, their checksums, and how to damage them. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::array;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;
pub const SCTP: u8 = 132;

/// Where the parts of a packet are, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    /// What follows the IP header and its extensions; `None` for a fragment, whose rest is elsewhere.
    pub protocol: Option<u8>,
    /// Where that begins.
    pub transport: usize,
    /// Where the packet ends; a frame may be padded after it.
    pub end: usize,
}

/// Reads the headers. `None` for what is not a whole IPv4 or IPv6 packet.
pub fn parse(bytes: &[u8]) -> Option<Packet> {
    match bytes.first()? >> 4 {
        4 => parse_ipv4(bytes),
        6 => parse_ipv6(bytes),
        _ => None,
    }
}

fn parse_ipv4(bytes: &[u8]) -> Option<Packet> {
    let transport = usize::from(bytes[0] & 15) * 4;
    let end = usize::from(u16::from_be_bytes(array(bytes.get(2..4)?)));
    if transport < 20 || end < transport || end > bytes.len() {
        return None;
    }
    // "More fragments" or an offset.
    let fragment = u16::from_be_bytes(array(&bytes[6..8])) & 0x3fff != 0;
    Some(Packet {
        from: IpAddr::V4(Ipv4Addr::from(array::<4>(&bytes[12..16]))),
        to: IpAddr::V4(Ipv4Addr::from(array::<4>(&bytes[16..20]))),
        protocol: (!fragment).then_some(bytes[9]),
        transport,
        end,
    })
}

fn parse_ipv6(bytes: &[u8]) -> Option<Packet> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let end = 40 + usize::from(u16::from_be_bytes(array(bytes.get(4..6)?)));
    if end > bytes.len() {
        return None;
    }
    let (mut transport, mut protocol) = (40, Some(bytes[6]));
    while let Some(HOP_BY_HOP | ROUTING | DESTINATION) = protocol {
        let extension = bytes.get(transport..transport + 2)?;
        protocol = Some(extension[0]);
        transport += (usize::from(extension[1]) + 1) * 8;
    }
    if protocol == Some(FRAGMENT) {
        protocol = None;
    }
    if transport > end {
        return None;
    }
    Some(Packet {
        from: IpAddr::V6(Ipv6Addr::from(array::<16>(&bytes[8..24]))),
        to: IpAddr::V6(Ipv6Addr::from(array::<16>(&bytes[24..40]))),
        protocol,
        transport,
        end,
    })
}

/// The damage that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flipped {
    pub byte: usize,
    pub bit: u8,
}

/// Flips one bit that the receiver's checksum covers, so that the packet is lost there, as on a bad wire.
/// `None`, and nothing changed, where no checksum would notice: fragments, UDP without one, other protocols.
pub fn corrupt(bytes: &mut [u8], random: u64) -> Option<Flipped> {
    let packet = parse(bytes)?;
    checksum_at(bytes, &packet)?;
    flip(bytes, packet.transport..packet.end, random)
}

/// Flips one bit of the payload and makes the checksum fit, so that nothing below the application notices.
/// `None`, and nothing changed, for a packet without payload or without a checksum that we know.
pub fn corrupt_undetected(bytes: &mut [u8], random: u64) -> Option<Flipped> {
    let packet = parse(bytes)?;
    let protocol = packet.protocol?;
    let header = match protocol {
        TCP => usize::from(bytes.get(packet.transport + 12)? >> 4) * 4,
        UDP | ICMP | ICMP6 => 8,
        _ => return None,
    };
    let without_checksum = protocol == UDP && checksum_at(bytes, &packet).is_none();
    let flipped = flip(bytes, packet.transport + header..packet.end, random)?;
    if !without_checksum {
        finish_checksum(bytes, &packet);
    }
    Some(flipped)
}

fn flip(bytes: &mut [u8], within: std::ops::Range<usize>, random: u64) -> Option<Flipped> {
    let bits = u64::try_from(within.len()).ok()?.checked_mul(8).filter(|bits| *bits > 0)?;
    let chosen = random % bits;
    let (byte, bit) = (within.start + usize::try_from(chosen / 8).ok()?, (chosen % 8) as u8);
    *bytes.get_mut(byte)? ^= 1 << bit;
    Some(Flipped { byte, bit })
}

/// Where the checksum of a TCP, UDP or ICMP packet is; `None` where it has none.
fn checksum_at(bytes: &[u8], packet: &Packet) -> Option<usize> {
    let at = packet.transport
        + match packet.protocol? {
            TCP => 16,
            UDP => 6,
            ICMP | ICMP6 => 2,
            _ => return None,
        };
    if at + 2 > packet.end {
        return None;
    }
    let absent = packet.protocol == Some(UDP) && bytes[at..at + 2] == [0, 0];
    (!absent).then_some(at)
}

/// Whether the transport's checksum is right; `None` where there is none.
#[cfg(test)]
pub fn checksum_fits(bytes: &[u8], packet: &Packet) -> Option<bool> {
    checksum_at(bytes, packet)?;
    Some(transport_sum(bytes, packet)? == 0xffff)
}

/// Writes the checksum that fits into a TCP, UDP or ICMP packet that has one.
pub fn finish_checksum(bytes: &mut [u8], packet: &Packet) {
    let Some(at) = checksum_at(bytes, packet) else { return };
    bytes[at..at + 2].fill(0);
    let Some(sum) = transport_sum(bytes, packet) else { return };
    // For UDP zero says "no checksum"; its other name is all ones.
    let checksum = match !sum {
        0 if packet.protocol == Some(UDP) => 0xffff,
        other => other,
    };
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The one's complement sum over the pseudo header and the transport's bytes.
fn transport_sum(bytes: &[u8], packet: &Packet) -> Option<u16> {
    let protocol = packet.protocol?;
    let body = bytes.get(packet.transport..packet.end)?;
    let mut sum = 0u64;
    if protocol != ICMP {
        match (packet.from, packet.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                sum += add_words(&from.octets()) + add_words(&to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                sum += add_words(&from.octets()) + add_words(&to.octets());
            }
            _ => return None,
        }
        sum += u64::from(protocol) + body.len() as u64;
    }
    sum += add_words(body);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).ok()
}

fn add_words(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let sum: u64 = words.by_ref().map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    sum + words.remainder().first().map_or(0, |last| u64::from(*last) << 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend_from_slice(body);
        let length = u16::try_from(bytes.len()).unwrap();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    fn ipv6(extensions: &[u8], protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        bytes.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        bytes.extend_from_slice(extensions);
        bytes.extend_from_slice(body);
        let length = u16::try_from(bytes.len() - 40).unwrap();
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    fn transport(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut body = match protocol {
            TCP => {
                let mut header = vec![0x1f, 0x90, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff];
                header.extend_from_slice(&[0, 0, 0, 0]);
                header
            }
            UDP => vec![0x1f, 0x90, 0x80, 0, 0, 0, 0xff, 0xff],
            _ => vec![8, 0, 0, 0, 0, 1, 0, 1],
        };
        body.extend_from_slice(payload);
        if protocol == UDP {
            let length = u16::try_from(body.len()).unwrap();
            body[4..6].copy_from_slice(&length.to_be_bytes());
        }
        body
    }

    fn good(protocol: u8, six: bool, payload: &[u8]) -> Vec<u8> {
        let body = transport(protocol, payload);
        let mut bytes = if six { ipv6(&[], protocol, &body) } else { ipv4(protocol, &body) };
        let packet = parse(&bytes).unwrap();
        finish_checksum(&mut bytes, &packet);
        bytes
    }

    #[test]
    fn a_checksum_known_from_elsewhere_fits() {
        // Worked by hand: words of pseudo header and body, summed, folded, inverted.
        let mut bytes = ipv4(UDP, &transport(UDP, b"hi"));
        let packet = parse(&bytes).unwrap();
        finish_checksum(&mut bytes, &packet);
        let sum: u32 = 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 17 + 10 + 0x1f90 + 0x8000 + 10 + 0x6869;
        let folded = (sum & 0xffff) + (sum >> 16);
        assert_eq!(u32::from(u16::from_be_bytes([bytes[26], bytes[27]])), 0xffff - folded);
    }

    #[test]
    fn extension_headers_are_walked_and_fragments_left_alone() {
        let hop_by_hop = [TCP, 0, 0, 0, 0, 0, 0, 0];
        let bytes = ipv6(&hop_by_hop, 0, &transport(TCP, b"x"));
        let packet = parse(&bytes).unwrap();
        assert_eq!((packet.protocol, packet.transport), (Some(TCP), 48));
        let fragment = [TCP, 0, 0, 1, 0, 0, 0, 7];
        assert_eq!(parse(&ipv6(&fragment, 44, b"rest")).unwrap().protocol, None);
        let mut bytes = ipv4(TCP, b"rest of it");
        bytes[6] = 0x20;
        assert_eq!(parse(&bytes).unwrap().protocol, None);
        assert_eq!(corrupt(&mut bytes, 1), None);
    }

    #[test]
    fn what_is_no_packet_is_none() {
        for bytes in [&[][..], &[0x45], &[0x45; 19], &[0x60; 39], &[0x10; 60], &[0x41; 60]] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn udp_without_a_checksum_is_not_called_corrupted() {
        let mut bytes = ipv4(UDP, &transport(UDP, b"hello"));
        bytes[26..28].fill(0);
        let before = bytes.clone();
        assert_eq!(corrupt(&mut bytes, 12345), None);
        assert_eq!(bytes, before);
        assert!(corrupt_undetected(&mut bytes, 12345).is_some());
        assert_eq!(bytes[26..28], [0, 0]);
    }

    #[test]
    fn an_acknowledgement_has_no_payload_to_corrupt() {
        let mut bytes = good(TCP, false, b"");
        let before = bytes.clone();
        assert_eq!(corrupt_undetected(&mut bytes, 7), None);
        assert_eq!(bytes, before);
    }

    proptest! {
        #[test]
        fn a_corrupted_packet_differs_in_one_bit_and_its_checksum_tells(
            random: u64, six: bool, kind in 0usize..3, payload: Vec<u8>
        ) {
            let protocol = [TCP, UDP, if six { ICMP6 } else { ICMP }][kind];
            let before = good(protocol, six, &payload[..payload.len().min(1400)]);
            let mut bytes = before.clone();
            let packet = parse(&bytes).unwrap();
            prop_assert_eq!(checksum_fits(&bytes, &packet), Some(true));
            let flipped = corrupt(&mut bytes, random).unwrap();
            let different: u32 = before.iter().zip(&bytes).map(|(old, new)| (old ^ new).count_ones()).sum();
            prop_assert_eq!(different, 1);
            prop_assert!(flipped.byte >= packet.transport && flipped.byte < packet.end);
            // One flipped bit of UDP's checksum may leave zero, which says "no checksum": the data is right then.
            prop_assert!(checksum_fits(&bytes, &packet) != Some(true));
        }

        #[test]
        fn undetected_corruption_changes_the_payload_and_the_checksum_fits(
            random: u64, six: bool, kind in 0usize..3, payload in proptest::collection::vec(0u8.., 1..1400)
        ) {
            let protocol = [TCP, UDP, if six { ICMP6 } else { ICMP }][kind];
            let before = good(protocol, six, &payload);
            let mut bytes = before.clone();
            let flipped = corrupt_undetected(&mut bytes, random).unwrap();
            let packet = parse(&bytes).unwrap();
            prop_assert_eq!(checksum_fits(&bytes, &packet), Some(true));
            let start = before.len() - payload.len();
            prop_assert!(flipped.byte >= start);
            let different: u32 = before[start..].iter().zip(&bytes[start..]).map(|(old, new)| (old ^ new).count_ones()).sum();
            prop_assert_eq!(different, 1);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, random: u64) {
            if let Some(packet) = parse(&bytes) {
                let _ = checksum_fits(&bytes, &packet);
            }
            let _ = corrupt(&mut bytes, random);
            let _ = corrupt_undetected(&mut bytes, random);
        }
    }
}
