//! What neither std nor rustix offers, each in the smallest function that is safe to call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Time since boot, suspended time included. Every length of a holder is measured on it.
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

pub fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Has the kernel kill this process at that time since boot. It cannot be taken back, it fires while this
/// process is stopped or stuck, and children do not inherit it.
pub fn kill_me_at(since_boot: Duration) -> io::Result<()> {
    // SAFETY: both structs are plain data for which all zeroes is a value; the kernel reads them during the
    // calls and keeps no pointer.
    let status = unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        let mut timer: libc::timer_t = std::mem::zeroed();
        if libc::timer_create(libc::CLOCK_BOOTTIME, &mut event, &mut timer) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut at: libc::itimerspec = std::mem::zeroed();
        at.it_value.tv_sec = libc::time_t::try_from(since_boot.as_secs()).unwrap_or(libc::time_t::MAX);
        at.it_value.tv_nsec = libc::c_long::from(i32::try_from(since_boot.subsec_nanos()).unwrap_or(0)).max(1);
        libc::timer_settime(timer, libc::TIMER_ABSTIME, &at, std::ptr::null_mut())
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Which side of a fork this is.
pub enum Side {
    Child,
    Parent(rustix::process::Pid),
}

/// Forks a process that has one thread, so that the child may do all that the parent may.
///
/// # Panics
/// Where there are more threads: the locks they held would stay locked in the child for ever.
pub fn fork() -> io::Result<Side> {
    assert_eq!(threads()?, 1, "a holder has one thread, or it could not fork safely");
    // SAFETY: no other thread exists, so no lock and no half-done allocation is copied.
    let pid = unsafe { libc::fork() };
    match rustix::process::Pid::from_raw(pid) {
        None => Ok(Side::Child),
        Some(_) if pid < 0 => Err(io::Error::last_os_error()),
        Some(pid) => Ok(Side::Parent(pid)),
    }
}

/// Ends this process without running anything of its parent's that was copied into it.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// These signals as something that becomes readable, instead of something that interrupts.
pub fn signals(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use, and the returned descriptor is ours alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Processor time that another process has used, all its threads together.
pub fn cpu_time(pid: i32) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: both calls write only into the variables given.
    unsafe {
        let status = libc::clock_getcpuclockid(pid, &mut clock);
        if status != 0 {
            return Err(io::Error::from_raw_os_error(status));
        }
        let mut time: libc::timespec = std::mem::zeroed();
        if libc::clock_gettime(clock, &mut time) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }
}

/// Numbers that a holder and the workers it forks afterwards both see.
pub struct Shared {
    page: std::ptr::NonNull<[AtomicU64; Shared::LENGTH]>,
}

impl Shared {
    pub const LENGTH: usize = 64;

    pub fn new() -> io::Result<Self> {
        let page = map(4096, libc::MAP_SHARED)?;
        Ok(Shared { page: page.cast() })
    }
}

impl std::ops::Deref for Shared {
    type Target = [AtomicU64; Shared::LENGTH];

    fn deref(&self) -> &Self::Target {
        // SAFETY: the page is mapped, zeroed, aligned, never unmapped, and atomics may be written through a
        // shared reference from any process.
        unsafe { self.page.as_ref() }
    }
}

/// Anonymous memory of this process, reserved but not touched, and never given back as a whole.
pub fn reserve(length: usize) -> io::Result<std::ptr::NonNull<u8>> {
    map(length, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
}

fn map(length: usize, flags: i32) -> io::Result<std::ptr::NonNull<u8>> {
    // SAFETY: a new anonymous mapping wherever the kernel likes: it overlaps nothing that exists.
    let start = unsafe {
        let flags = flags | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    std::ptr::NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at null"))
}

/// A zeroed buffer for direct I/O, aligned to a page, for the rest of this process's life.
pub fn page_aligned(length: usize) -> io::Result<&'static mut [u8]> {
    let start = map(length, libc::MAP_PRIVATE)?;
    // SAFETY: mapped just now, zeroed, never unmapped, and this is the only reference to it.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) })
}

/// Threads that exist and do nothing.
pub struct Idlers {
    stacks: std::ptr::NonNull<u8>,
    most: usize,
    count: usize,
}

impl Idlers {
    /// Enough for one frame of `idle`.
    const STACK: usize = 8192;

    pub fn reserve(most: usize) -> io::Result<Self> {
        Ok(Idlers { stacks: reserve(most.saturating_mul(Idlers::STACK).max(Idlers::STACK))?, most, count: 0 })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// One more, or the error with which the kernel refused it.
    pub fn add(&mut self) -> io::Result<()> {
        if self.count == self.most {
            return Err(io::Error::other("no stack left"));
        }
        let flags =
            libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_SYSVSEM;
        // SAFETY: each thread gets a stack of its own inside the reserved range, which is never unmapped. It runs
        // `idle`, which shares nothing with the others but errno, and nobody here reads that one.
        let tid = unsafe {
            let top = self.stacks.as_ptr().add((self.count + 1) * Idlers::STACK - 64);
            libc::clone(idle, top.cast(), flags, std::ptr::null_mut())
        };
        if tid < 0 {
            return Err(io::Error::last_os_error());
        }
        self.count += 1;
        Ok(())
    }
}

extern "C" fn idle(_: *mut libc::c_void) -> i32 {
    loop {
        // SAFETY: waits for nothing, without end.
        unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0) };
    }
}

/// Reads once, without a buffer in between; `None` when there is nothing now.
pub fn read_some(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the kernel writes at most the length given into the buffer given.
    let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    match usize::try_from(count) {
        Ok(count) => Ok(Some(count)),
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            error => Err(error),
        },
    }
}
