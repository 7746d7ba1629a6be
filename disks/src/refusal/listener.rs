//! Where the kernel asks what to answer to calls that are filtered.

use std::os::fd::{AsRawFd as _, OwnedFd};

/// Answers as `says` tells until nobody is left who could ask: with an error, or by having the kernel make the call.
pub(super) fn answer(listener: &OwnedFd, mut says: impl FnMut() -> Option<i32>) {
    while wait(listener) {
        // SAFETY: it is numbers, of which zeros are what the kernel wants to be given.
        #[allow(unsafe_code)]
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills one such record.
        #[allow(unsafe_code)]
        let received = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        if received != 0 {
            // Who asked was killed meanwhile.
            continue;
        }
        let (error, flags) = match says() {
            Some(errno) => (-errno, 0),
            None => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        };
        let answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error, flags };
        // SAFETY: the kernel reads one such record. Who is gone needs no answer.
        #[allow(unsafe_code)]
        let _ = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    }
}

/// Until somebody asks; `false` when nobody will any more.
fn wait(listener: &OwnedFd) -> bool {
    loop {
        let mut asked = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: it is one such record.
        #[allow(unsafe_code)]
        let ready = unsafe { libc::poll(&raw mut asked, 1, -1) };
        match ready {
            1 if asked.revents & libc::POLLIN != 0 => return true,
            1 => return false,
            _ => {}
        }
    }
}
