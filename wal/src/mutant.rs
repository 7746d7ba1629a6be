//! Planted bugs: each turns one promise off, so that a test can show that it would notice. They exist only in builds with
//! the `testing` feature, and there only where one is asked for: on a thread, by `with_mutant`, or in the whole process, by
//! the environment, which is how `cargo run -p seawall-mutants` lets every one of them meet the test that must fail.
//! The mechanism is here, for all crates; which bugs there are is each crate's own list.

/// In the environment: which bug is planted in this process, as `crate:name`, such as `wal:no-sync`.
#[cfg(any(test, feature = "testing"))]
pub const VARIABLE: &str = "SEAWALL_MUTANT";

/// The crates that have bugs to plant; of some of them another program does.
#[cfg(any(test, feature = "testing"))]
const CRATES: [&str; 6] = ["wal", "wal-race", "engine", "engine-race", "replication", "backup"];

/// A bug's name in the environment: its crate, and what its variant is called, in small letters with hyphens.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub fn name(of: &str, variant: &str) -> String {
    let mut name = format!("{of}:");
    for letter in variant.chars() {
        if letter.is_uppercase() && !name.ends_with(':') {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// The bug of this crate that the environment asks for.
///
/// # Panics
/// If it asks for one that there is not: a test that ran without it would prove nothing.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub fn of_environment<M: Copy>(of: &str, all: &[M], name_of: impl Fn(M) -> String) -> Option<M> {
    let wanted = std::env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty())?;
    let known = |wanted: &str| wanted.split_once(':').is_some_and(|(of, _)| CRATES.contains(&of));
    assert!(known(&wanted), "{VARIABLE}={wanted} is no bug of any crate: it is one of {CRATES:?}, a colon, and a name");
    if wanted.split(':').next() != Some(of) {
        return None;
    }
    let found = all.iter().copied().find(|bug| name_of(*bug) == wanted);
    let names = || all.iter().map(|bug| name_of(*bug)).collect::<Vec<_>>().join(", ");
    Some(
        found.unwrap_or_else(|| {
            panic!("{VARIABLE}={wanted} is no bug that can be planted; those of {of} are {}", names())
        }),
    )
}

/// Makes a crate's list of bugs, `Mutant`, with `planted` for the code that has them and `with_mutant` for tests.
#[macro_export]
#[doc(hidden)]
macro_rules! mutants {
    ($of:literal, $($(#[$says:meta])* $bug:ident,)*) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$says])* $bug,)*
        }

        #[cfg(any(test, feature = "testing"))]
        mod planting {
            use std::cell::Cell;
            use std::sync::LazyLock;

            use super::Mutant;

            thread_local! {
                static ON_THIS_THREAD: Cell<Option<Mutant>> = const { Cell::new(None) };
            }
            static EVERYWHERE: LazyLock<Option<Mutant>> =
                LazyLock::new(|| $crate::mutant::of_environment($of, Mutant::ALL, Mutant::name));

            impl Mutant {
                /// All of them.
                pub const ALL: &[Self] = &[$(Self::$bug,)*];

                /// As the environment names it.
                pub fn name(self) -> String {
                    $crate::mutant::name($of, &format!("{self:?}"))
                }
            }

            pub(crate) fn planted(mutant: Mutant) -> bool {
                ON_THIS_THREAD.get() == Some(mutant) || *EVERYWHERE == Some(mutant)
            }

            /// Runs `work` with a bug planted on this thread.
            pub fn with_mutant<T>(mutant: Mutant, work: impl FnOnce() -> T) -> T {
                struct Uproot;
                impl Drop for Uproot {
                    fn drop(&mut self) {
                        ON_THIS_THREAD.set(None);
                    }
                }
                ON_THIS_THREAD.set(Some(mutant));
                let _uproot = Uproot;
                work()
            }
        }

        #[cfg(any(test, feature = "testing"))]
        pub(crate) use planting::planted;
        #[cfg(any(test, feature = "testing"))]
        pub use planting::with_mutant;

        #[cfg(not(any(test, feature = "testing")))]
        pub(crate) const fn planted(_mutant: Mutant) -> bool {
            false
        }
    };
}

crate::mutants! {
    "wal",
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
    /// Two repairs of one log do not wait for each other.
    RepairsTogether,
    /// A segment is repaired as soon as the next one has begun, although its last records may not be flushed.
    RepairBeforeFlush,
    /// A group is synced and then written.
    SyncBeforeWrite,
    /// A sync that failed is tried again, and believed.
    RetryFailedSync,
    /// New segments' names are not made durable.
    FolderNotSynced,
    /// Where a segment of the log had its header, there are zeros: its file is used again.
    WipedTakenForPrepared,
    /// A segment that is used again keeps its old header until it gets its new one.
    RecycledNotWiped,
    /// A segment that is missing between others is nothing to speak of.
    GapUnnoticed,
    /// Of segments that are not needed the newest goes first.
    NewestLetGoFirst,
    /// A file that could not be let go of is let go of when another one has its name.
    NameLetGoOfTwice,
    /// A recycled segment gets its next name before power loss cannot bring the last one back.
    RecycledNameNotSynced,
    /// A record says that what it follows is flushed, whether it is or not.
    StampAheadOfFlush,
    /// A record may say that it is longer than its segment.
    UnboundedLength,
    /// A segment is of a newer version if it says so, whether its checksum does or not.
    VersionNotChecked,
    /// A record need not continue the chain of the one before.
    ChainIgnored,
    /// Segments of other clusters and timelines are taken for the log's own.
    ForeignAccepted,
    /// Recovery does not look at how far the node had noted that it flushed.
    WatermarkIgnored,
    /// What is cut off stays where it is.
    CutLeftThere,
    /// What recovery has read counts as flushed, and may still be on its way to the disk.
    RecoveredNotSynced,
    /// A standby acknowledges what it has not synced.
    StandbyAcknowledgesUnsynced,
    /// A standby begins a segment before the one before is synced.
    StandbySwitchesUnsynced,
    /// Log goes although a slot or a reader needs it.
    RetentionIgnoresHolders,
    /// A write that moved fewer bytes than given is taken for a whole one.
    ShortWriteBelieved,
    /// A read or write that a signal interrupted is taken for one that failed.
    InterruptedIsFailed,
    /// A file is replaced by one whose bytes do not survive power loss.
    ReplacedByUnsynced,
    /// A file is replaced, and its new name does not survive power loss.
    ReplacedNameNotSynced,
    /// A sync that failed behind a write that was short is made again, and believed.
    LinkedSyncFailureForgotten,
    /// A write with a sync linked behind it that moved fewer bytes than given is taken for a whole one.
    ShortLinkBelieved,
    /// A sync counts although the kernel took it apart from the write before it.
    SplitLinkBelieved,
    /// Who needs the next segment hears of a try to make it that failed before they asked.
    StaleFailureBelieved,
    /// A bad record before a position is taken for a sign that the position is another log's.
    DamageTakenForAnotherLog,
    /// A sector that the device cannot read is told of, and nobody repairs it.
    UnreadableSectorNotNoted,
    /// Of a log that nobody has open, segments are given that may not have been flushed.
    UnsealedGiven,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_called_by_its_crate_and_its_words() {
        assert_eq!(Mutant::TruncateAtAnyBadCrc.name(), "wal:truncate-at-any-bad-crc");
    }

    #[test]
    fn a_bug_is_planted_on_the_thread_that_asks_and_only_while_it_does() {
        let other = |mutant| std::thread::spawn(move || planted(mutant)).join().unwrap();
        with_mutant(Mutant::NoSync, || {
            assert!(planted(Mutant::NoSync) && !planted(Mutant::NoSalt));
            assert!(!other(Mutant::NoSync));
        });
        assert!(!planted(Mutant::NoSync));
    }
}
