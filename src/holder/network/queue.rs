//! The messages of nfnetlink_queue, which hands packets to user space and takes verdicts. No I/O.

use super::netlink::{ACK, Head, REQUEST, Writer, array, attributes_of, be32};

const SUBSYSTEM: u16 = 3 << 8;
/// `NFQNL_MSG_PACKET`: a packet from the kernel.
pub const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
const VERDICT_BATCH: u16 = SUBSYSTEM | 3;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_LENGTH: u16 = 3;
const CONFIG_MASK: u16 = 4;
const CONFIG_FLAGS: u16 = 5;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// `NFQA_CFG_F_FAIL_OPEN`: what does not fit passes unharmed.
const FAIL_OPEN: u32 = 1;
/// `NFQA_CFG_F_GSO`: superpackets stay whole, checksums may be unfinished.
const SUPERPACKETS: u32 = 4;

const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const STAMP: u16 = 4;
const PAYLOAD: u16 = 10;
const WHOLE_LENGTH: u16 = 13;

/// How much of a packet the kernel hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// One byte, and its length.
    Length,
    /// All of it, cut into packets that fit the wire, checksums finished.
    Whole,
}

/// How one queue is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    pub copy: Copy,
    pub superpackets: bool,
    /// Packets that may wait; those above pass unharmed.
    pub waiting_max: u32,
}

/// Makes the queue `number` ours and sets it up. Answered once.
pub fn bind(number: u16, setup: Setup) -> Writer {
    let range: u32 = match setup.copy {
        Copy::Length => 1,
        // 0 would be "all" too, but as 65,531 only.
        Copy::Whole => 0xffff,
    };
    let flags = FAIL_OPEN | if setup.superpackets { SUPERPACKETS } else { 0 };
    let mut parameters = range.to_be_bytes().to_vec();
    parameters.push(COPY_PACKET);
    let mut writer = Writer::default();
    writer.netfilter(Head { kind: CONFIG, flags: REQUEST | ACK, sequence: 1 }, 0, number, |writer| {
        writer.attribute(CONFIG_COMMAND, &[BIND, 0, 0, 0]);
        writer.attribute(CONFIG_PARAMETERS, &parameters);
        writer.be32(CONFIG_LENGTH, setup.waiting_max);
        writer.be32(CONFIG_MASK, FAIL_OPEN | SUPERPACKETS);
        writer.be32(CONFIG_FLAGS, flags);
    });
    writer
}

/// A packet that waits in the kernel for our verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub queue: u16,
    /// Counts up in each queue, from 1.
    pub id: u32,
    /// Bytes of the whole packet, from its IP header.
    pub length: u32,
    /// When it came in, in nanoseconds since 1970, if the kernel stamps packets. Whole microseconds, rounded up.
    pub stamp: Option<u64>,
    /// As much of it as was copied.
    pub bytes: &'a [u8],
}

/// Reads the body of a packet message.
pub fn packet(body: &[u8]) -> Option<Packet<'_>> {
    let queue = u16::from_be_bytes(array(body.get(2..4)?));
    let mut packet = Packet { queue, id: 0, length: 0, stamp: None, bytes: &[] };
    let mut whole = None;
    for (kind, value) in attributes_of(&body[4..]) {
        match kind {
            PACKET_HEADER if value.len() >= 4 => packet.id = be32(value),
            STAMP => packet.stamp = stamp(value),
            PAYLOAD => packet.bytes = value,
            WHOLE_LENGTH if value.len() >= 4 => whole = Some(be32(value)),
            _ => {}
        }
    }
    packet.length = whole.or_else(|| u32::try_from(packet.bytes.len()).ok())?;
    (packet.id != 0).then_some(packet)
}

/// Seconds and microseconds, rounded down by the kernel: a delay never ends before its time.
fn stamp(value: &[u8]) -> Option<u64> {
    let number = |from: usize| Some(u64::from_be_bytes(array(value.get(from..from + 8)?)));
    let microseconds = number(0)?.checked_mul(1_000_000)?.checked_add(number(8)?)?;
    microseconds.checked_add(1)?.checked_mul(1_000)
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Drop = 0,
    Accept = 1,
}

/// The verdict on one packet, with other bytes in its place if given.
pub fn verdict(writer: &mut Writer, queue: u16, id: u32, verdict: Verdict, instead: Option<&[u8]>) {
    writer.netfilter(Head { kind: VERDICT, flags: REQUEST, sequence: 0 }, 0, queue, |writer| {
        writer.attribute(VERDICT_HEADER, &verdict_header(verdict, id));
        if let Some(bytes) = instead {
            writer.attribute(PAYLOAD, bytes);
        }
    });
}

/// Accepts every packet of the queue that came no later than `id`.
pub fn accept_up_to(writer: &mut Writer, queue: u16, id: u32) {
    writer.netfilter(Head { kind: VERDICT_BATCH, flags: REQUEST, sequence: 0 }, 0, queue, |writer| {
        writer.attribute(VERDICT_HEADER, &verdict_header(Verdict::Accept, id));
    });
}

fn verdict_header(verdict: Verdict, id: u32) -> [u8; 8] {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&(verdict as u32).to_be_bytes());
    header[4..].copy_from_slice(&id.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::super::netlink::{find, messages};
    use super::*;

    #[test]
    fn a_packet_cut_short_keeps_its_whole_length() {
        let mut writer = Writer::default();
        writer.netfilter(Head { kind: PACKET, flags: 0, sequence: 0 }, 2, 4713, |writer| {
            writer.attribute(PACKET_HEADER, &[0, 0, 0, 9, 8, 0, 1]);
            writer.attribute(PAYLOAD, &[0x45]);
            writer.be32(WHOLE_LENGTH, 64_000);
        });
        let message = messages(writer.bytes()).next().unwrap();
        assert_eq!(packet(message.body), Some(Packet { queue: 4713, id: 9, length: 64_000, stamp: None, bytes: &[0x45] }));
    }

    #[test]
    fn a_packet_copied_whole_is_as_long_as_its_bytes() {
        let mut writer = Writer::default();
        writer.netfilter(Head { kind: PACKET, flags: 0, sequence: 0 }, 2, 1, |writer| {
            writer.attribute(PACKET_HEADER, &[0, 0, 1, 0, 8, 0, 1]);
            writer.attribute(PAYLOAD, &[1, 2, 3]);
        });
        let message = messages(writer.bytes()).next().unwrap();
        assert_eq!(packet(message.body), Some(Packet { queue: 1, id: 256, length: 3, stamp: None, bytes: &[1, 2, 3] }));
    }

    #[test]
    fn a_stamp_is_in_microseconds_rounded_up() {
        let mut writer = Writer::default();
        writer.netfilter(Head { kind: PACKET, flags: 0, sequence: 0 }, 2, 1, |writer| {
            writer.attribute(PACKET_HEADER, &[0, 0, 0, 1, 8, 0, 1]);
            writer.attribute(STAMP, &[[0, 0, 0, 0, 0, 0, 0, 9], [0, 0, 0, 0, 0, 0, 0, 7]].concat());
        });
        let stamp = packet(messages(writer.bytes()).next().unwrap().body).unwrap().stamp;
        assert_eq!(stamp, Some(9_000_008_000));
    }

    #[test]
    fn a_message_that_is_no_packet_is_none() {
        assert_eq!(packet(&[]), None);
        assert_eq!(packet(&[2, 0, 0, 1]), None);
    }

    #[test]
    fn a_verdict_carries_its_packet_and_its_new_bytes() {
        let mut writer = Writer::default();
        verdict(&mut writer, 3, 0x0102_0304, Verdict::Drop, None);
        verdict(&mut writer, 3, 5, Verdict::Accept, Some(&[9, 9]));
        accept_up_to(&mut writer, 3, 7);
        let read: Vec<(u16, &[u8])> = messages(writer.bytes()).map(|message| (message.kind, &message.body[4..])).collect();
        assert_eq!(find(read[0].1, &[VERDICT_HEADER]), Some(&[0, 0, 0, 0, 1, 2, 3, 4][..]));
        assert_eq!(find(read[1].1, &[PAYLOAD]), Some(&[9, 9][..]));
        assert_eq!((read[0].0, read[2].0), (VERDICT, VERDICT_BATCH));
        assert_eq!(find(read[2].1, &[VERDICT_HEADER]), Some(&[0, 0, 0, 1, 0, 0, 0, 7][..]));
    }
}
