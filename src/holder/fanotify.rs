//! The kernel's file events that wait for an answer. When the group's descriptor is closed, by us or by our
//! death, the kernel answers every waiting call with "go on".

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Opening, creating and executing.
pub const OPEN: u64 = libc::FAN_OPEN_PERM;
/// Reading.
pub const READ: u64 = libc::FAN_ACCESS_PERM;
/// Any access to contents, before it happens. Linux 6.14.
pub const ACCESS: u64 = 0x0010_0000;

/// One group of marks.
pub struct Group {
    fd: OwnedFd,
}

/// A call that waits.
pub struct Waiting {
    /// The file it is about.
    pub file: OwnedFd,
    /// How many bytes it asks for, where the kernel says so.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    GoOn,
    /// Fail with this error, where the kernel lets us choose; with EPERM where not.
    Fail(i32),
}

impl Group {
    /// # Errors
    /// EPERM without the capability SYS_ADMIN; EINVAL or ENOSYS on a kernel without permission events.
    pub fn new() -> io::Result<Self> {
        let class = libc::FAN_CLASS_PRE_CONTENT | libc::FAN_UNLIMITED_QUEUE | libc::FAN_UNLIMITED_MARKS;
        let flags = class | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        // SAFETY: no pointers; the returned descriptor is ours alone.
        let fd = unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE) as u32) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, owned by nobody else.
        Ok(Group { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// From now on every such call on the mount that this file lies on waits for an answer. Only this mount: the
    /// same files through another one are not touched.
    pub fn mark_mount(&self, file: &OwnedFd, events: u64) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_MOUNT;
        // SAFETY: without a path the descriptor itself is marked; the kernel keeps neither.
        let status = unsafe { libc::fanotify_mark(self.fd.as_raw_fd(), flags, events, file.as_raw_fd(), std::ptr::null()) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Calls that wait and were not read before, as many as fit.
    pub fn read(&self) -> io::Result<Vec<Waiting>> {
        const HEAD: usize = std::mem::size_of::<libc::fanotify_event_metadata>();
        // Room for some 85 to 170 at once; what does not fit is read next.
        let mut buffer = [0u8; 4096];
        let Some(count) = super::sys::read_some(self.fd.as_fd(), &mut buffer)? else { return Ok(Vec::new()) };
        let mut rest = &buffer[..count];
        let mut waiting = Vec::new();
        while rest.len() >= HEAD {
            // SAFETY: as many bytes as the structure has are there; it is plain data and read unaligned.
            let event: libc::fanotify_event_metadata =
                unsafe { rest.as_ptr().cast::<libc::fanotify_event_metadata>().read_unaligned() };
            if event.fd >= 0 {
                // SAFETY: the kernel opened it for us when the event was read.
                let file = unsafe { OwnedFd::from_raw_fd(event.fd) };
                let records = rest.get(event.metadata_len.into()..event.event_len as usize).unwrap_or_default();
                waiting.push(Waiting { file, bytes: bytes(records).unwrap_or(0) });
            }
            rest = rest.get((event.event_len as usize).max(HEAD)..).unwrap_or_default();
        }
        Ok(waiting)
    }

    /// Lets the call go on or fail. `false`: the kernel did not take the error chosen, and EPERM was given.
    pub fn answer(&self, waiting: &Waiting, answer: Answer) -> io::Result<bool> {
        match answer {
            Answer::GoOn => self.write(waiting, libc::FAN_ALLOW).map(|()| true),
            Answer::Fail(errno) => {
                let chosen = libc::FAN_DENY | (errno.unsigned_abs() << 24);
                match self.write(waiting, chosen) {
                    Ok(()) => Ok(true),
                    // An answer that was not taken leaves the caller waiting: it must have another.
                    Err(_) => self.write(waiting, libc::FAN_DENY).map(|()| false),
                }
            }
        }
    }

    fn write(&self, waiting: &Waiting, response: u32) -> io::Result<()> {
        let response = libc::fanotify_response { fd: waiting.file.as_raw_fd(), response };
        // SAFETY: a plain structure of the size given, read during the call.
        let written = unsafe {
            let length = std::mem::size_of::<libc::fanotify_response>();
            libc::write(self.fd.as_raw_fd(), (&raw const response).cast(), length)
        };
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The length in a record of a range (linux/fanotify.h, struct fanotify_event_info_range), among an event's records.
fn bytes(mut records: &[u8]) -> Option<u64> {
    const RANGE: u8 = 6;
    const COUNT: std::ops::Range<usize> = 16..24;
    loop {
        let length = usize::from(u16::from_ne_bytes(records.get(2..4)?.try_into().ok()?));
        if records[0] == RANGE {
            return records.get(COUNT)?.try_into().ok().map(u64::from_ne_bytes);
        }
        records = records.get(length..).filter(|_| length > 0)?;
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_range_is_found_among_other_records() {
        let record = |kind: u8, length: u16, rest: &[u64]| {
            let mut bytes = vec![kind, 0];
            bytes.extend(length.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(rest.iter().flat_map(|word| word.to_ne_bytes()));
            bytes
        };
        let range = record(6, 24, &[4_096, 65_536]);
        assert_eq!(bytes(&range), Some(65_536));
        assert_eq!(bytes(&[record(4, 16, &[1]), range.clone()].concat()), Some(65_536));
        assert_eq!((bytes(&[]), bytes(&range[..20]), bytes(&record(4, 0, &[1]))), (None, None, None));
    }
}
