//! What to do with an answer of the kernel: pure decisions, without a ring. The rules are those of POSIX calls that are asked
//! until they are done, and one more: a sync that failed is never made again.

use std::io;

use crate::mutant::{Mutant, planted};

/// Whether bytes come or go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// What a read or write came to.
#[derive(Debug)]
pub(super) enum Moved {
    /// So many bytes, at least one; the rest is asked for.
    Bytes(usize),
    /// Nothing, because of a signal: asked again.
    Interrupted,
    /// Nothing, because the kernel lacks something just now: asked again after a moment.
    Busy,
    /// Nothing, and asking again is of no use.
    Failed(io::Error),
}

/// After the answer to a read or write of at least one byte.
pub(super) fn after_moving(result: i32, direction: Direction) -> Moved {
    match (result, direction) {
        (0, Direction::Read) => Moved::Failed(io::ErrorKind::UnexpectedEof.into()),
        (0, Direction::Write) => Moved::Failed(io::ErrorKind::WriteZero.into()),
        (1.., _) => Moved::Bytes(result.unsigned_abs() as usize),
        _ => match -result {
            libc::EINTR => Moved::Interrupted,
            libc::EAGAIN => Moved::Busy,
            errno => Moved::Failed(io::Error::from_raw_os_error(errno)),
        },
    }
}

/// After the answer to a sync: whether it is done, or must be asked for again because a signal came before it began.
///
/// # Errors
/// Of a sync that failed: the bytes may be gone, and asking again would prove nothing.
pub(super) fn after_sync(result: i32) -> io::Result<bool> {
    match result {
        0.. => Ok(true),
        _ if -result == libc::EINTR => Ok(false),
        _ => Err(io::Error::from_raw_os_error(-result)),
    }
}

/// How a write and the sync behind it reached the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// Together: the sync began after the write was done, or not at all.
    Linked,
    /// One after the other, because the kernel did not take both at once: the sync may have begun before the write.
    Split,
}

/// What is left of a write with a sync behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// All bytes are written, and not synced.
    Sync,
    /// So many bytes are written; the rest and the sync are left.
    WriteFrom(usize),
}

/// After the answers to a write of `len` bytes and to the sync behind it.
///
/// # Errors
/// If one of them failed. A sync that failed counts also if the write was short and another one will have to follow: that
/// one would succeed, and what the first one lost would not be there.
pub(super) fn after_chain(written: i32, synced: i32, len: usize, chain: Chain) -> io::Result<Left> {
    // The kernel does not begin what stands behind a write that failed or was short.
    let synced = match -synced {
        libc::ECANCELED => false,
        _ => match after_sync(synced) {
            Err(_) if planted(Mutant::LinkedSyncFailureForgotten) && written != len as i32 => false,
            synced => synced?,
        },
    };
    match after_moving(written, Direction::Write) {
        Moved::Failed(error) => Err(error),
        Moved::Interrupted | Moved::Busy => Ok(Left::WriteFrom(0)),
        Moved::Bytes(_) if planted(Mutant::ShortLinkBelieved) => Ok(Left::Nothing),
        Moved::Bytes(count) if count < len => Ok(Left::WriteFrom(count)),
        Moved::Bytes(_) if synced && (chain == Chain::Linked || planted(Mutant::SplitLinkBelieved)) => {
            Ok(Left::Nothing)
        }
        Moved::Bytes(_) => Ok(Left::Sync),
    }
}

/// What to do when the kernel does not take what it is asked, or does not wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Ask again at once.
    Again,
    /// Ask again after a moment.
    Later,
    /// Completions are there: take them first.
    Collect,
    /// The ring is of no use any more.
    Abandon,
}

/// After io_uring_enter failed. It says nothing about the operations.
pub(super) fn after_entry_failed(errno: Option<i32>, are_completions_there: bool) -> Entry {
    match errno {
        Some(libc::EINTR) => Entry::Again,
        // Short of kernel memory, or of room for completions.
        Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM) if are_completions_there => Entry::Collect,
        Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM) => Entry::Later,
        _ => Entry::Abandon,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 4096;

    fn chain(written: i32, synced: i32, chain: Chain) -> Result<Left, i32> {
        after_chain(written, synced, LEN, chain)
            .map_err(|error| error.raw_os_error().unwrap_or_else(|| panic!("{error} has a number")))
    }

    #[test]
    fn a_chain_is_done_only_if_all_was_written_and_then_synced() {
        use Chain::{Linked, Split};
        let whole = LEN as i32;
        assert_eq!(chain(whole, 0, Linked), Ok(Left::Nothing));
        assert_eq!(chain(whole, 0, Split), Ok(Left::Sync), "the sync may have come first");
        for link in [Linked, Split] {
            assert_eq!(chain(whole, -libc::ECANCELED, link), Ok(Left::Sync));
            assert_eq!(chain(whole, -libc::EINTR, link), Ok(Left::Sync), "it was not begun");
            assert_eq!(chain(512, -libc::ECANCELED, link), Ok(Left::WriteFrom(512)));
            // Kernels differ in whether a short write breaks the link.
            assert_eq!(chain(512, 0, link), Ok(Left::WriteFrom(512)));
            for passing in [libc::EINTR, libc::EAGAIN] {
                assert_eq!(chain(-passing, -libc::ECANCELED, link), Ok(Left::WriteFrom(0)));
            }
            for final_error in [libc::EIO, libc::ENOSPC, libc::EROFS] {
                assert_eq!(chain(-final_error, -libc::ECANCELED, link), Err(final_error));
                assert_eq!(chain(whole, -final_error, link), Err(final_error));
            }
        }
        let nothing = after_chain(0, -libc::ECANCELED, LEN, Linked).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn a_sync_that_failed_is_final_whatever_became_of_the_write_before_it() {
        for written in [LEN as i32, 512, -libc::EINTR, -libc::EAGAIN] {
            for link in [Chain::Linked, Chain::Split] {
                assert_eq!(chain(written, -libc::EIO, link), Err(libc::EIO), "{written} {link:?}");
            }
        }
    }

    #[test]
    fn only_what_passes_is_asked_again() {
        assert!(after_sync(0).unwrap());
        assert!(!after_sync(-libc::EINTR).unwrap());
        for errno in [libc::EIO, libc::ENOSPC, libc::EAGAIN, libc::ECANCELED] {
            assert_eq!(after_sync(-errno).unwrap_err().raw_os_error(), Some(errno));
        }
        for direction in [Direction::Read, Direction::Write] {
            assert!(matches!(after_moving(7, direction), Moved::Bytes(7)));
            assert!(matches!(after_moving(-libc::EINTR, direction), Moved::Interrupted));
            assert!(matches!(after_moving(-libc::EAGAIN, direction), Moved::Busy));
            for errno in [libc::EIO, libc::ENOSPC, libc::ECANCELED, libc::EBADF] {
                let Moved::Failed(error) = after_moving(-errno, direction) else { panic!("{errno}") };
                assert_eq!(error.raw_os_error(), Some(errno));
            }
        }
        let end = |direction| match after_moving(0, direction) {
            Moved::Failed(error) => error.kind(),
            other => panic!("{other:?}"),
        };
        assert_eq!(end(Direction::Read), io::ErrorKind::UnexpectedEof);
        assert_eq!(end(Direction::Write), io::ErrorKind::WriteZero);
    }

    #[test]
    fn a_ring_is_asked_again_while_it_is_short_of_something_and_abandoned_for_all_else() {
        assert_eq!(after_entry_failed(Some(libc::EINTR), false), Entry::Again);
        for errno in [libc::EBUSY, libc::EAGAIN, libc::ENOMEM] {
            assert_eq!(after_entry_failed(Some(errno), true), Entry::Collect);
            assert_eq!(after_entry_failed(Some(errno), false), Entry::Later);
        }
        for errno in [libc::EPERM, libc::EBADF, libc::EFAULT, libc::EBADR] {
            assert_eq!(after_entry_failed(Some(errno), true), Entry::Abandon);
        }
    }
}
