//! Planted bugs: each turns one promise off, so that a test can show that it would notice. They exist only in builds with
//! the `testing` feature, and there only on a thread that asks for one.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A group is written but not synced.
    NoSync,
    /// Commits are acknowledged when their group starts on its way.
    AcknowledgeBeforeSync,
    /// Recovery takes every bad record for a torn tail.
    TruncateAtAnyBadCrc,
    /// The segment's salt does not go into the header CRC.
    NoSalt,
    /// Recovery does not look at flush stamps.
    IgnoreStamp,
    /// A repaired segment gets its name before its bytes survive power loss.
    RepairNotSynced,
    /// A repair takes what it gets without looking whether it belongs there.
    RepairUnproven,
}

#[cfg(any(test, feature = "testing"))]
mod active {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    pub(crate) fn planted(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }

    /// Runs `work` with a bug planted on this thread.
    pub fn with_mutant<T>(mutant: Mutant, work: impl FnOnce() -> T) -> T {
        struct Uproot;
        impl Drop for Uproot {
            fn drop(&mut self) {
                PLANTED.set(None);
            }
        }
        PLANTED.set(Some(mutant));
        let _uproot = Uproot;
        work()
    }
}

#[cfg(any(test, feature = "testing"))]
pub(crate) use active::planted;
#[cfg(any(test, feature = "testing"))]
pub use active::with_mutant;

#[cfg(not(any(test, feature = "testing")))]
pub(crate) const fn planted(_mutant: Mutant) -> bool {
    false
}
