//! Which connections are hit, when only a share of them is: the hash that nftables' `jhash` computes, computed
//! here too, so that a partition resets the very connections that the kernel's rules drop.

use std::net::IpAddr;

/// The hash is cut to this many parts; a share is a number of them.
pub const PARTS: u32 = 10_000;

/// How many of the [`PARTS`] a percentage is.
pub fn parts(percent: f64) -> u32 {
    (percent / 100.0 * f64::from(PARTS)).round() as u32
}

/// What the hash is taken over, as the rules load it into registers: near address, far address, and for protocols
/// with ports the near and the far port, each in four bytes.
pub fn key(near: IpAddr, far: IpAddr, ports: Option<(u16, u16)>) -> Vec<u8> {
    let mut key = Vec::with_capacity(40);
    for address in [near, far] {
        match address {
            IpAddr::V4(address) => key.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => key.extend_from_slice(&address.octets()),
        }
    }
    if let Some((near, far)) = ports {
        for port in [near, far] {
            key.extend_from_slice(&port.to_be_bytes());
            key.extend_from_slice(&[0, 0]);
        }
    }
    key
}

/// Which of the [`PARTS`] a connection falls in.
pub fn part(key: &[u8], seed: u32) -> u32 {
    let scaled = u64::from(jenkins(key, seed)) * u64::from(PARTS);
    (scaled >> 32) as u32
}

/// Bob Jenkins' lookup3 as the kernel's `jhash()` has it. Words are in the byte order of the machine; all keys here
/// are a multiple of four bytes.
fn jenkins(key: &[u8], seed: u32) -> u32 {
    const START: u32 = 0xdead_beef;
    let length = u32::try_from(key.len()).expect("a key has at most 40 bytes");
    let start = START.wrapping_add(length).wrapping_add(seed);
    let [mut a, mut b, mut c] = [start; 3];
    let words: Vec<u32> = key.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])).collect();
    let mut rest = &words[..];
    while let [first, second, third, more @ ..] = rest
        && !more.is_empty()
    {
        a = a.wrapping_add(*first);
        b = b.wrapping_add(*second);
        c = c.wrapping_add(*third);
        for [one, two, three] in [[4, 6, 8], [16, 19, 4]] {
            a = a.wrapping_sub(c) ^ c.rotate_left(one);
            c = c.wrapping_add(b);
            b = b.wrapping_sub(a) ^ a.rotate_left(two);
            a = a.wrapping_add(c);
            c = c.wrapping_sub(b) ^ b.rotate_left(three);
            b = b.wrapping_add(a);
        }
        rest = more;
    }
    if rest.is_empty() {
        return c;
    }
    a = a.wrapping_add(rest[0]);
    b = b.wrapping_add(rest.get(1).copied().unwrap_or(0));
    c = c.wrapping_add(rest.get(2).copied().unwrap_or(0));
    for [one, two, three] in [[14, 11, 25], [16, 4, 14]] {
        c = (c ^ b).wrapping_sub(b.rotate_left(one));
        a = (a ^ c).wrapping_sub(c.rotate_left(two));
        b = (b ^ a).wrapping_sub(a.rotate_left(three));
    }
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_lookup3() {
        // Its author's own values for the empty key. That longer keys agree with the kernel is seen in tests/holder,
        // where a partition of some connections resets those that it drops and no other.
        if cfg!(target_endian = "little") {
            assert_eq!(jenkins(b"", 0), 0xdead_beef);
            assert_eq!(jenkins(b"", 0xdead_beef), 0xbd5b_7dde);
        }
    }

    #[test]
    fn a_share_is_met_and_is_the_same_each_time() {
        let parts: Vec<u32> =
            (1024u16..11_024).map(|port| part(&key([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Some((port, 80))), 7)).collect();
        assert!(parts.iter().all(|part| *part < PARTS));
        let hit = parts.iter().filter(|part| **part < PARTS * 40 / 100).count();
        assert!((3_800..4_200).contains(&hit), "{hit} of 10,000");
        let again = part(&key([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Some((1024, 80))), 7);
        assert_eq!(again, parts[0]);
    }
}
