//! A kernel that refuses a system call, as the policies of many containers refuse io_uring: to a program, by a filter that its
//! process is given before the program begins; or now and then to a thread of a test. It needs no privilege, and what is
//! filtered never gets rid of it.

mod listener;

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// A system call that may be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Making a ring.
    IoUringSetup,
    /// Using one.
    IoUringEnter,
}

impl Call {
    /// The same on every architecture.
    const fn number(self) -> u32 {
        (match self {
            Self::IoUringSetup => libc::SYS_io_uring_setup,
            Self::IoUringEnter => libc::SYS_io_uring_enter,
        }) as u32
    }
}

/// Has the kernel answer `call` with this error, and not do it, in the program that `command` starts and in whatever that
/// starts. Starting fails where the kernel has no such filters.
pub fn refuse(command: &mut Command, call: Call, errno: i32) {
    let mut filter = filter(call, libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & libc::SECCOMP_RET_DATA));
    let given = move || install(&mut filter, 0).map(drop);
    // SAFETY: between fork and exec it makes two system calls, on memory made before.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(given);
    }
}

/// Has `says` decide from now on what the kernel answers when this thread, or one that it starts, makes `call`: an error, with
/// nothing done, or what the call answers. It is asked on a thread of its own, which ends when those that it answers have.
///
/// # Errors
/// Where the kernel has no such filters.
pub fn refuse_at_times(call: Call, says: impl FnMut() -> Option<i32> + Send + 'static) -> io::Result<()> {
    // Started before there is a filter, which it would have, too.
    let (give, taken) = std::sync::mpsc::channel();
    std::thread::Builder::new().name(String::from("refuse")).spawn(move || {
        if let Ok(listener) = taken.recv() {
            listener::answer(&listener, says);
        }
    })?;
    let mut filter = filter(call, libc::SECCOMP_RET_USER_NOTIF);
    let listener = install(&mut filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: the kernel has just made it, and nobody else has it.
    #[allow(unsafe_code)]
    let listener = unsafe { OwnedFd::from_raw_fd(listener) };
    give.send(listener).map_err(|_| io::Error::other("the thread that answers has ended"))
}

/// Is the number of the call this one? Then the verdict, else it is let through.
fn filter(call: Call, verdict: u32) -> [libc::sock_filter; 4] {
    /// Of the number in what the kernel shows a filter.
    const NUMBER_AT: u32 = 0;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER_AT),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call.number()),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, verdict),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Gives this thread a filter; the number of its listener, if that is among the flags.
#[allow(unsafe_code)]
fn install(filter: &mut [libc::sock_filter; 4], flags: libc::c_ulong) -> io::Result<i32> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: it takes numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let set = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program and its steps are there while the kernel copies them.
    match unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const program) } {
        ..0 => Err(io::Error::last_os_error()),
        listener => Ok(listener as i32),
    }
}
