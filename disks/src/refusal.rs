//! A program to which the kernel refuses a system call, as the policies of many containers refuse io_uring: a filter that
//! the program's process is given before the program begins, and never gets rid of. It needs no privilege.

use std::io;
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
    let mut filter = filter(call, errno);
    let given = move || give(&mut filter);
    // SAFETY: between fork and exec it makes two system calls, on memory made before.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(given);
    }
}

/// Is the number of the call this one? Then the error, else it is let through.
fn filter(call: Call, errno: i32) -> [libc::sock_filter; 4] {
    /// Of the number in what the kernel shows a filter.
    const NUMBER_AT: u32 = 0;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER_AT),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call.number()),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & libc::SECCOMP_RET_DATA),
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[allow(unsafe_code)]
fn give(filter: &mut [libc::sock_filter; 4]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: it takes numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the program and its steps are there while the kernel copies them.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
