//! Threads traced by this process, and by that alone held: when the tracer ends, the kernel lets them run.

use std::io;

use rustix::io::Errno;

/// What became of a traced thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It stands still.
    Stopped(i32),
    /// It stands still before a signal that it has not had yet.
    Signal(i32, i32),
    /// It has ended, and is reaped.
    Gone(i32),
}

/// Traces a thread, and what it forks or clones from then on. It goes on running.
pub fn seize(tid: i32) -> Result<(), Errno> {
    let options = libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE;
    request(libc::PTRACE_SEIZE, tid, options as usize)
}

/// Has it stop as soon as it can.
pub fn interrupt(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT, tid, 0)
}

/// Gives it its signal, and lets it run.
pub fn go_on(tid: i32, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_CONT, tid, signal.unsigned_abs() as usize)
}

/// Lets go of it; it must stand still.
pub fn detach(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH, tid, 0)
}

/// The next news, without waiting for any.
pub fn news() -> io::Result<Option<News>> {
    let mut status = 0;
    // SAFETY: writes only into `status`.
    let tid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::WNOHANG) };
    match tid {
        0 => Ok(None),
        tid if tid > 0 => Ok(Some(if libc::WIFSTOPPED(status) {
            match status >> 16 {
                0 => News::Signal(tid, libc::WSTOPSIG(status)),
                // Asked for, at a fork, or a whole group's stop: it stands still, and no signal is lost.
                _event => News::Stopped(tid),
            }
        } else {
            News::Gone(tid)
        })),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
    }
}

fn request(request: libc::c_uint, tid: i32, data: usize) -> Result<(), Errno> {
    // SAFETY: none of these requests has the kernel read or write memory of this process; `data` is a number.
    let status = unsafe { libc::ptrace(request, tid, std::ptr::null_mut::<libc::c_void>(), data) };
    if status < 0 { Err(Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or(0))) } else { Ok(()) }
}
