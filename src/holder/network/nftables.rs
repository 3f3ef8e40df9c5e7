//! nftables objects as netlink messages: only what the engine's tables are made of. No I/O.

use super::netlink::{ACK, APPEND, CREATE, DUMP, EXCLUSIVE, Head, REQUEST, Writer, array, attributes_of, find};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const DELETE_SET: u16 = SUBSYSTEM | 11;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;

/// `NFT_TABLE_F_OWNER`: the table goes when the socket that made it is closed, and nobody else may change it.
const OWNED: u32 = 2;
const SET_INTERVAL: u32 = 4;
const ELEMENT_END: u32 = 1;
/// Elements of one message: an IPv6 range takes 80 bytes, and a nested attribute must stay below 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6 in one.
    Inet = 1,
    /// Frames of one device.
    Netdev = 5,
}

/// Where a base chain sees packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook<'a> {
    Input,
    Output,
    /// Frames on their way out of this device.
    Egress(&'a str),
}

/// Which header a load begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Network = 1,
    Transport = 2,
}

/// What is known about a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// EtherType, in the order of the wire.
    Protocol = 1,
    Mark = 3,
    /// ARPHRD type of the device it came by.
    InputType = 8,
    /// … or goes out by.
    OutputType = 9,
    /// Number of the protocol above IP.
    Transport = 16,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    Family = 15,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal = 0,
    NotEqual = 1,
    Less = 2,
    Greater = 4,
}

/// The n-th register of four bytes, of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u32);

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Load {
        base: Base,
        offset: u32,
        length: u32,
        into: Register,
    },
    LoadMeta {
        what: Meta,
        into: Register,
    },
    Compare {
        register: Register,
        how: Comparison,
        with: Vec<u8>,
    },
    InSet {
        set: String,
        register: Register,
    },
    /// Puts `jhash` of `length` bytes of registers, cut to `parts`, into a register in the order of the wire.
    Hash {
        from: Register,
        length: u32,
        parts: u32,
        seed: u32,
        into: Register,
    },
    Set {
        register: Register,
        to: Vec<u8>,
    },
    Count,
    /// Hand to this queue; where nobody holds it, pass if `bypass`, else vanish in silence.
    Queue {
        number: u16,
        bypass: bool,
    },
    /// The same by xtables.
    XtablesQueue {
        number: u16,
        bypass: bool,
    },
    /// Send out of the device whose index is in the register.
    Forward {
        device: Register,
    },
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl Register {
    /// `NFT_REG32_00` is 8.
    fn number(self) -> u32 {
        8 + self.0
    }
}

impl Expression {
    fn write(&self, writer: &mut Writer) {
        match self {
            Expression::Load { base, offset, length, into } => expression(writer, "payload", |writer| {
                writer.be32(1, into.number());
                writer.be32(2, *base as u32);
                writer.be32(3, *offset);
                writer.be32(4, *length);
            }),
            Expression::LoadMeta { what, into } => expression(writer, "meta", |writer| {
                writer.be32(1, into.number());
                writer.be32(2, *what as u32);
            }),
            Expression::Compare { register, how, with } => expression(writer, "cmp", |writer| {
                writer.be32(1, register.number());
                writer.be32(2, *how as u32);
                value(writer, 3, with);
            }),
            Expression::InSet { set, register } => expression(writer, "lookup", |writer| {
                writer.text(1, set);
                writer.be32(2, register.number());
            }),
            Expression::Hash { from, length, parts, seed, into } => {
                const JENKINS: u32 = 0;
                expression(writer, "hash", |writer| {
                    writer.be32(1, from.number());
                    writer.be32(2, into.number());
                    writer.be32(3, *length);
                    writer.be32(4, *parts);
                    writer.be32(5, *seed);
                    writer.be32(7, JENKINS);
                });
                // It is computed in the order of the machine, but compared byte by byte.
                const HOST_TO_WIRE: u32 = 1;
                expression(writer, "byteorder", |writer| {
                    writer.be32(1, into.number());
                    writer.be32(2, into.number());
                    writer.be32(3, HOST_TO_WIRE);
                    writer.be32(4, 4);
                    writer.be32(5, 4);
                });
            }
            Expression::Set { register, to } => expression(writer, "immediate", |writer| {
                writer.be32(1, register.number());
                value(writer, 2, to);
            }),
            Expression::Count => expression(writer, "counter", |_| {}),
            Expression::Queue { number, bypass } => expression(writer, "queue", |writer| {
                writer.be16(1, *number);
                writer.be16(2, 1);
                writer.be16(3, u16::from(*bypass));
            }),
            Expression::XtablesQueue { number, bypass } => expression(writer, "target", |writer| {
                // struct xt_NFQ_info_v3: number, how many, flags; padded to eight bytes.
                let mut settings = [0u8; 8];
                settings[..2].copy_from_slice(&number.to_ne_bytes());
                settings[2..4].copy_from_slice(&1u16.to_ne_bytes());
                settings[4..6].copy_from_slice(&u16::from(*bypass).to_ne_bytes());
                writer.text(1, "NFQUEUE");
                writer.be32(2, 3);
                writer.attribute(3, &settings);
            }),
            Expression::Forward { device } => expression(writer, "fwd", |writer| writer.be32(1, device.number())),
            Expression::Drop => verdict(writer, 0, None),
            Expression::Return => verdict(writer, -5, None),
            Expression::Jump(chain) => verdict(writer, -3, Some(chain)),
            Expression::Goto(chain) => verdict(writer, -4, Some(chain)),
        }
    }
}

fn expression(writer: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    writer.nested(1, |writer| {
        writer.text(1, name);
        writer.nested(2, body);
    });
}

fn value(writer: &mut Writer, kind: u16, bytes: &[u8]) {
    writer.nested(kind, |writer| writer.attribute(1, bytes));
}

/// A verdict is a value for register 0.
fn verdict(writer: &mut Writer, code: i32, chain: Option<&str>) {
    expression(writer, "immediate", |writer| {
        writer.be32(1, 0);
        writer.nested(2, |writer| {
            writer.nested(2, |writer| {
                writer.attribute(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    writer.text(2, chain);
                }
            });
        });
    });
}

/// From the first to the last, both included, as bytes in the order of the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: Vec<u8>,
    /// The first after the last; `None` where there is none.
    pub after: Option<Vec<u8>>,
}

/// Changes to one table that take effect together or not at all. Only the last one is acknowledged, so that a long
/// list of acknowledgements cannot overflow the socket; errors are reported for each.
#[derive(Debug)]
pub struct Transaction {
    writer: Writer,
    family: Family,
    table: String,
    sequence: u32,
    /// Where the last message begins.
    last: usize,
}

impl Transaction {
    pub fn new(family: Family, table: &str) -> Self {
        let mut transaction = Transaction { writer: Writer::default(), family, table: table.to_owned(), sequence: 0, last: 0 };
        transaction.bracket(BATCH_BEGIN);
        transaction
    }

    /// A table that is this socket's own.
    ///
    /// # Assumes
    /// No table of that name: it is refused then, which makes the name a lock on the network namespace.
    pub fn own_table(&mut self) {
        self.push(NEW_TABLE, CREATE | EXCLUSIVE, |writer| writer.be32(2, OWNED));
    }

    pub fn hook(&mut self, chain: &str, hook: Hook<'_>, priority: i32) {
        let (number, device) = match hook {
            Hook::Input => (1, None),
            Hook::Output => (3, None),
            Hook::Egress(device) => (1, Some(device)),
        };
        self.push(NEW_CHAIN, CREATE, |writer| {
            writer.text(3, chain);
            writer.nested(4, |writer| {
                writer.be32(1, number);
                writer.attribute(2, &priority.to_be_bytes());
                if let Some(device) = device {
                    writer.text(3, device);
                }
            });
            writer.text(7, "filter");
        });
    }

    pub fn chain(&mut self, chain: &str) {
        self.push(NEW_CHAIN, CREATE, |writer| writer.text(3, chain));
    }

    pub fn rule(&mut self, chain: &str, expressions: &[Expression]) {
        self.push(NEW_RULE, CREATE | APPEND, |writer| {
            writer.text(2, chain);
            writer.nested(4, |writer| expressions.iter().for_each(|expression| expression.write(writer)));
        });
    }

    /// Deletes all rules of a chain, not the chain.
    pub fn empty(&mut self, chain: &str) {
        self.push(DELETE_RULE, 0, |writer| writer.text(2, chain));
    }

    /// A set of ranges of keys that are `key_length` bytes long.
    pub fn set(&mut self, name: &str, key_length: usize, ranges: &[Range]) {
        // For those who list it: ipv4_addr, ipv6_addr, inet_service.
        let key_type = match key_length {
            4 => 7,
            16 => 8,
            _ => 13,
        };
        let id = self.sequence + 1;
        self.push(NEW_SET, CREATE | EXCLUSIVE, |writer| {
            writer.text(2, name);
            writer.be32(3, SET_INTERVAL);
            writer.be32(4, key_type);
            writer.be32(5, u32::try_from(key_length).expect("a key is an address or a port"));
            writer.be32(10, id);
        });
        for ranges in ranges.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(NEW_ELEMENT, CREATE, |writer| {
                writer.text(2, name);
                writer.nested(3, |writer| {
                    for range in ranges {
                        writer.nested(1, |writer| value(writer, 1, &range.first));
                        if let Some(after) = &range.after {
                            writer.nested(1, |writer| {
                                value(writer, 1, after);
                                writer.be32(3, ELEMENT_END);
                            });
                        }
                    }
                });
            });
        }
    }

    pub fn delete_set(&mut self, name: &str) {
        self.push(DELETE_SET, 0, |writer| writer.text(2, name));
    }

    fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) {
        self.sequence += 1;
        self.last = self.writer.len();
        let head = Head { kind, flags: REQUEST | flags, sequence: self.sequence };
        self.writer.netfilter(head, self.family as u8, 0, |writer| {
            writer.text(1, &self.table);
            body(writer);
        });
    }

    fn bracket(&mut self, kind: u16) {
        const NFTABLES: u16 = 10;
        self.writer.netfilter(Head { kind, flags: REQUEST, sequence: self.sequence }, 0, NFTABLES, |_| {});
    }

    /// The bytes for the kernel.
    pub fn finish(mut self) -> Writer {
        // Kernels before 6.10 acknowledge no bracket.
        self.writer.add_flags(self.last, ACK);
        self.bracket(BATCH_END);
        self.writer
    }
}

/// Asks for one table. Answered with it, or with ENOENT.
pub fn get_table(family: Family, table: &str) -> Writer {
    let mut writer = Writer::default();
    let head = Head { kind: GET_TABLE, flags: REQUEST, sequence: 1 };
    writer.netfilter(head, family as u8, 0, |writer| writer.text(1, table));
    writer
}

/// Asks for all rules of a chain, each a message, then done.
pub fn get_rules(family: Family, table: &str, chain: &str) -> Writer {
    let mut writer = Writer::default();
    let head = Head { kind: GET_RULE, flags: REQUEST | DUMP, sequence: 1 };
    writer.netfilter(head, family as u8, 0, |writer| {
        writer.text(1, table);
        writer.text(2, chain);
    });
    writer
}

/// The packets that the counter of a rule has counted, from the rule's body; `None` for a rule without a counter.
pub fn rule_count(body: &[u8]) -> Option<u64> {
    let expressions = attributes_of(find(body.get(4..)?, &[4])?);
    let packets = expressions
        .filter(|(_, expression)| find(expression, &[1]) == Some(b"counter\0"))
        .find_map(|(_, expression)| find(expression, &[2, 2]))?;
    Some(u64::from_be_bytes(array(packets)))
}

#[cfg(test)]
mod tests {
    use super::super::netlink::messages;
    use super::*;

    #[test]
    fn a_transaction_is_bracketed_and_only_its_last_change_is_acknowledged() {
        let mut transaction = Transaction::new(Family::Inet, "t");
        transaction.own_table();
        transaction.hook("in", Hook::Input, 0);
        transaction.rule("in", &[Expression::Count, Expression::Drop]);
        let written = transaction.finish();
        let kinds: Vec<u16> = messages(written.bytes()).map(|message| message.kind).collect();
        assert_eq!(kinds, [BATCH_BEGIN, NEW_TABLE, NEW_CHAIN, NEW_RULE, BATCH_END]);
        let flags: Vec<u16> = messages(written.bytes()).map(|message| message.flags & ACK).collect();
        assert_eq!(flags, [0, 0, 0, ACK, 0]);
        let table = messages(written.bytes()).nth(1).unwrap();
        assert_eq!(table.body[0], Family::Inet as u8);
        assert_eq!(find(&table.body[4..], &[1]), Some(&b"t\0"[..]));
        assert_eq!(find(&table.body[4..], &[2]), Some(&2u32.to_be_bytes()[..]));
    }

    #[test]
    fn many_elements_are_cut_into_messages_that_fit() {
        let ranges: Vec<Range> = (0..2_000u32)
            .map(|at| Range { first: at.to_be_bytes().repeat(4), after: Some(at.to_be_bytes().repeat(4)) })
            .collect();
        let mut transaction = Transaction::new(Family::Inet, "t");
        transaction.set("s", 16, &ranges);
        let written = transaction.finish();
        let elements: usize = messages(written.bytes())
            .filter(|message| message.kind == NEW_ELEMENT)
            .map(|message| attributes_of(find(&message.body[4..], &[3]).unwrap()).count())
            .sum();
        assert_eq!(elements, 4_000);
        assert_eq!(messages(written.bytes()).filter(|message| message.kind == NEW_ELEMENT).count(), 4);
    }

    #[test]
    fn a_rule_with_a_counter_is_read() {
        let mut writer = Writer::default();
        writer.raw(&[1, 0, 0, 0]);
        writer.text(2, "hit");
        writer.nested(4, |writer| {
            expression(writer, "immediate", |_| {});
            expression(writer, "counter", |writer| {
                writer.attribute(1, &700u64.to_be_bytes());
                writer.attribute(2, &7u64.to_be_bytes());
            });
        });
        assert_eq!(rule_count(writer.bytes()), Some(7));
        assert_eq!(rule_count(&[1, 0, 0, 0]), None);
    }
}
