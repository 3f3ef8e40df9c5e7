//! Netlink as bytes: messages and attributes, written and read. No I/O.

/// `NLMSG_ERROR`: an acknowledgement, or what went wrong.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// Set on an attribute that holds attributes.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
/// `NLMSGERR_ATTR_MSG`: the kernel's reason in words, where it has one.
const ERROR_TEXT: u16 = 1;

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;

/// What stands at the front of one message.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
}

/// Messages on their way to the kernel, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Sets flags of the message that begins at `start`.
    pub fn add_flags(&mut self, start: usize, flags: u16) {
        if let Some(field) = self.bytes.get_mut(start + 6..start + 8) {
            let set = u16::from_ne_bytes(array(field)) | flags;
            field.copy_from_slice(&set.to_ne_bytes());
        }
    }

    /// A message whose body is whatever `body` writes.
    pub fn message(&mut self, head: Head, body: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        self.bytes[start + 4..start + 6].copy_from_slice(&head.kind.to_ne_bytes());
        self.bytes[start + 6..start + 8].copy_from_slice(&head.flags.to_ne_bytes());
        self.bytes[start + 8..start + 12].copy_from_slice(&head.sequence.to_ne_bytes());
        body(self);
        let length = u32::try_from(self.bytes.len() - start).expect("a message is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// A message of the netfilter family: `resource` is a queue's number or a subsystem's.
    pub fn netfilter(&mut self, head: Head, family: u8, resource: u16, body: impl FnOnce(&mut Writer)) {
        self.message(head, |writer| {
            writer.raw(&[family, 0]);
            writer.raw(&resource.to_be_bytes());
            body(writer);
        });
    }

    /// Bytes as they are: fixed structures at the front of a body.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.attribute_of(kind, |writer| writer.raw(value));
    }

    pub fn be16(&mut self, kind: u16, value: u16) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Text, closed by a zero byte.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.attribute_of(kind, |writer| {
            writer.raw(value.as_bytes());
            writer.raw(&[0]);
        });
    }

    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        self.attribute_of(kind | NESTED, body);
    }

    fn attribute_of(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        body(self);
        let length = u16::try_from(self.bytes.len() - start).expect("an attribute is below 64 KiB: lists are cut before");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

/// What the kernel answered to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer<'a> {
    Done,
    /// The error number, and the kernel's own words where it has some.
    Failed {
        errno: i32,
        words: Option<String>,
    },
    Message(Message<'a>),
}

impl<'a> Message<'a> {
    pub fn answer(self) -> Answer<'a> {
        match self.kind {
            NLMSG_DONE => Answer::Done,
            NLMSG_ERROR => {
                let errno = self.body.get(..4).map_or(0, |code| -i32::from_ne_bytes(array(code)));
                if errno == 0 { Answer::Done } else { Answer::Failed { errno, words: self.words() } }
            }
            _ => Answer::Message(self),
        }
    }

    /// With NETLINK_CAP_ACK an error carries the header of what failed, then attributes.
    fn words(self) -> Option<String> {
        let attributes = self.body.get(4 + HEADER..)?;
        let text = attributes_of(attributes).find(|(kind, _)| *kind == ERROR_TEXT)?.1;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    }
}

/// The messages of what one `recv` brought. A message cut short ends it.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let length = usize::try_from(u32::from_ne_bytes(array(&header[..4]))).ok()?;
        let body = rest.get(HEADER..length)?;
        let message = Message {
            kind: u16::from_ne_bytes(array(&header[4..6])),
            flags: u16::from_ne_bytes(array(&header[6..8])),
            sequence: u32::from_ne_bytes(array(&header[8..12])),
            body,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Attributes and their values, in order. One cut short ends it.
pub fn attributes_of(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = rest.get(..4)?;
        let length = usize::from(u16::from_ne_bytes(array(&header[..2])));
        let kind = u16::from_ne_bytes(array(&header[2..4])) & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The value of the attribute reached by this path of nested kinds.
pub fn find<'a>(mut bytes: &'a [u8], path: &[u16]) -> Option<&'a [u8]> {
    for wanted in path {
        bytes = attributes_of(bytes).find(|(kind, _)| kind == wanted)?.1;
    }
    Some(bytes)
}

pub fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    let length = bytes.len().min(N);
    array[..length].copy_from_slice(&bytes[..length]);
    array
}

pub fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(array(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head { kind: 7, flags: REQUEST, sequence: 9 };

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        writer.netfilter(HEAD, 2, 5, |writer| {
            writer.be16(1, 0x0102);
            writer.text(2, "in");
            writer.nested(3, |writer| writer.be32(4, 77));
        });
        writer.message(Head { sequence: 10, ..HEAD }, |_| {});
        let read: Vec<Message> = messages(writer.bytes()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].sequence, read[1].sequence), (7, 9, 10));
        let body = &read[0].body[4..];
        assert_eq!(&read[0].body[..4], [2, 0, 0, 5]);
        assert_eq!(find(body, &[1]), Some(&[1, 2][..]));
        assert_eq!(find(body, &[2]), Some(&b"in\0"[..]));
        assert_eq!(find(body, &[3, 4]).map(be32), Some(77));
        assert_eq!(find(body, &[3, 5]), None);
    }

    #[test]
    fn an_error_names_its_number_and_its_words() {
        let mut writer = Writer::default();
        writer.message(Head { kind: NLMSG_ERROR, ..HEAD }, |writer| {
            writer.raw(&(-17i32).to_ne_bytes());
            writer.raw(&[0; HEADER]);
            writer.text(ERROR_TEXT, "it exists");
        });
        let message = messages(writer.bytes()).next().unwrap();
        assert_eq!(message.answer(), Answer::Failed { errno: 17, words: Some("it exists".into()) });
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_read_twice_or_from_outside(bytes: Vec<u8>) {
            for message in messages(&bytes) {
                let _ = message.answer();
                for (_, value) in attributes_of(message.body) {
                    proptest::prop_assert!(value.len() <= bytes.len());
                }
            }
        }

        #[test]
        fn an_attribute_of_any_length_is_read_back(value in proptest::collection::vec(0u8.., 0..300)) {
            let mut writer = Writer::default();
            writer.attribute(3, &value);
            writer.be16(4, 1);
            let read: Vec<(u16, &[u8])> = attributes_of(writer.bytes()).collect();
            proptest::prop_assert_eq!(read, vec![(3, &value[..]), (4, &[0, 1][..])]);
        }
    }
}
