//! Connections that exist, listed and destroyed: the messages of inet_diag. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::{ACK, DUMP, Head, REQUEST, Writer, array};
use super::order::Connection;
use super::packet::TCP;

/// `SOCK_DIAG_BY_FAMILY`.
pub const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
pub const IPV4: u8 = 2;
pub const IPV6: u8 = 10;
/// TCP states worth a reset: those with another end. Not LISTEN, which would be lasting damage; not TIME_WAIT, CLOSE
/// and NEW_SYN_RECV, which have nobody behind them.
const CONNECTED: u32 = !(1 << 10 | 1 << 6 | 1 << 7 | 1 << 12);
const ID: usize = 48;

/// What names one socket to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketId {
    family: u8,
    id: [u8; ID],
}

/// Asks for all TCP sockets of a family that have another end. Each is a message, then done.
pub fn list(family: u8) -> Writer {
    let mut writer = Writer::default();
    writer.message(Head { kind: BY_FAMILY, flags: REQUEST | DUMP, sequence: 1 }, |writer| {
        request(writer, family, CONNECTED, &[0; ID]);
    });
    writer
}

/// Resets one: its owner gets ECONNABORTED, the other end a RST if it can pass.
pub fn destroy(socket: &SocketId) -> Writer {
    let mut writer = Writer::default();
    writer.message(Head { kind: DESTROY, flags: REQUEST | ACK, sequence: 1 }, |writer| {
        request(writer, socket.family, CONNECTED, &socket.id);
    });
    writer
}

/// Names a socket that cannot be, to see whether the kernel knows how to destroy one.
pub fn nobody() -> SocketId {
    SocketId { family: IPV4, id: [0; ID] }
}

/// struct inet_diag_req_v2.
fn request(writer: &mut Writer, family: u8, states: u32, id: &[u8; ID]) {
    writer.raw(&[family, TCP, 0, 0]);
    writer.raw(&states.to_ne_bytes());
    writer.raw(id);
}

/// Reads the body of one answer, struct inet_diag_msg.
pub fn socket(body: &[u8]) -> Option<(SocketId, Connection)> {
    let family = *body.first()?;
    let id: [u8; ID] = array(body.get(4..4 + ID)?);
    let address = |at: usize| match family {
        IPV4 => Some(IpAddr::V4(Ipv4Addr::from(array::<4>(&id[at..])))),
        // A socket of IPv6 that speaks IPv4 is IPv4 on the wire.
        IPV6 => Some(IpAddr::V6(Ipv6Addr::from(array::<16>(&id[at..]))).to_canonical()),
        _ => None,
    };
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let connection = Connection { protocol: TCP, near: address(4)?, near_port: port(0), far: address(20)?, far_port: port(2) };
    Some((SocketId { family, id }, connection))
}

#[cfg(test)]
mod tests {
    use super::super::netlink::messages;
    use super::*;

    fn answer(family: u8, near: &[u8], far: &[u8]) -> Vec<u8> {
        let mut body = vec![family, 1, 0, 0];
        body.extend_from_slice(&8080u16.to_be_bytes());
        body.extend_from_slice(&40_000u16.to_be_bytes());
        for address in [near, far] {
            let mut padded = address.to_vec();
            padded.resize(16, 0);
            body.extend_from_slice(&padded);
        }
        body.extend_from_slice(&[3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        body.extend_from_slice(&[0; 20]);
        body
    }

    #[test]
    fn a_connection_is_read_and_named_again() {
        let body = answer(IPV4, &[10, 0, 0, 1], &[10, 0, 0, 2]);
        let (id, connection) = socket(&body).unwrap();
        let expected = Connection {
            protocol: TCP,
            near: [10, 0, 0, 1].into(),
            near_port: 8080,
            far: [10, 0, 0, 2].into(),
            far_port: 40_000,
        };
        assert_eq!(connection, expected);
        let request = destroy(&id);
        let message = messages(request.bytes()).next().unwrap();
        assert_eq!((message.kind, message.body.len()), (DESTROY, 56));
        assert_eq!(&message.body[8..], &body[4..52]);
    }

    #[test]
    fn ipv4_inside_ipv6_is_ipv4() {
        let mapped = "::ffff:10.0.0.2".parse::<Ipv6Addr>().unwrap().octets();
        let (_, connection) = socket(&answer(IPV6, &mapped, &mapped)).unwrap();
        assert_eq!(connection.far, IpAddr::from([10, 0, 0, 2]));
    }

    #[test]
    fn an_answer_cut_short_is_none() {
        assert_eq!(socket(&[]), None);
        assert_eq!(socket(&answer(IPV4, &[10, 0, 0, 1], &[10, 0, 0, 2])[..40]), None);
    }
}
