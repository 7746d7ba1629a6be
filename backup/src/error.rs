//! The crate's one error type. A variant exists because some caller acts on it: waits, asks for other credentials,
//! chooses another target, or stops.

use std::io;
use std::path::PathBuf;

use seawall_wal::{ClusterId, Lsn, TimelineId, Timestamp};

use crate::format::{BackupId, ObjectDamage};
use crate::mutant::{Mutant, planted};
use crate::repository::{ConditionalWrites, RepositoryError};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with an archive, a backup or a restore.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object store did not serve a request.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// An object is not what its key says: damaged, foreign, or too new.
    #[error("the object `{key}` in {repository} cannot be used: {damage}")]
    Object {
        /// The repository.
        repository: String,
        /// The object.
        key: String,
        /// What is wrong with it.
        damage: ObjectDamage,
    },
    /// The repository belongs to another cluster.
    #[error(
        "{repository} belongs to cluster {found}, not to this one, {expected}; give each cluster a prefix of its own"
    )]
    ForeignRepository {
        /// The repository.
        repository: String,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        expected: ClusterId,
    },
    /// The repository was made with another segment size.
    #[error("{repository} was made for segments of {found} bytes, this cluster has {expected}")]
    SegmentSize {
        /// The repository.
        repository: String,
        /// Its segment size.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// There is no repository there.
    #[error("{repository} holds no archive; check the url and its prefix")]
    NoArchive {
        /// The repository.
        repository: String,
    },
    /// Another node went on with this history, or ended it. Nothing of ours is archived from there on.
    #[error(
        "this node is fenced: timeline {timeline} went on elsewhere at {at} ({by}); its writes after that position are not part of the cluster's history"
    )]
    Fenced {
        /// Our timeline.
        timeline: TimelineId,
        /// Where it stopped being ours.
        at: Lsn,
        /// How it is known.
        by: String,
    },
    /// The store cannot be relied upon to stop another writer.
    #[error(
        "{repository} cannot fence: {found}; use another store, or promote without a fence, accepting that an old primary is not stopped"
    )]
    CannotFence {
        /// The repository.
        repository: String,
        /// What the probe found.
        found: ConditionalWrites,
    },
    /// The archive does not reach as far as the log of whoever wants to fence there.
    #[error("timeline {timeline} is archived up to {}, this node has it up to {at}; archive the rest before fencing", archived.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string()))]
    ArchiveBehind {
        /// The timeline.
        timeline: TimelineId,
        /// Where the archive ends, if it has any of it.
        archived: Option<Lsn>,
        /// Where this node's log ends.
        at: Lsn,
    },
    /// Another promotion has the timeline.
    #[error("timeline {timeline} was claimed by {claimant}; this node may not begin it")]
    TimelineTaken {
        /// The number.
        timeline: TimelineId,
        /// Who has it.
        claimant: String,
    },
    /// The archive and this node's log share no position from which to go on.
    #[error(
        "the log up to {archived} of timeline {timeline} is archived, but this node's log begins at {oldest}: the part between would be a gap; allow a gap, or take a new base backup into an empty prefix"
    )]
    WouldLeaveGap {
        /// Of which timeline.
        timeline: TimelineId,
        /// Where the archive ends.
        archived: Lsn,
        /// Where the local log begins.
        oldest: Lsn,
    },
    /// Log that is needed is not in the archive.
    #[error(
        "the archive has a gap: the log of timeline {timeline} from {from} on is missing; choose a target before it, or one after the next base backup"
    )]
    Gap {
        /// Of which timeline.
        timeline: TimelineId,
        /// From where.
        from: Lsn,
    },
    /// The target lies before everything, or after everything, that was archived.
    #[error("the target {target} is outside the archive, which reaches from {first} to {last}")]
    OutsideArchive {
        /// As asked for.
        target: String,
        /// The earliest that can be restored.
        first: String,
        /// The latest that can be restored.
        last: String,
    },
    /// No base backup has this id.
    #[error("there is no backup `{id}` in {repository}; the newest is {}", newest.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string))]
    UnknownBackup {
        /// The repository.
        repository: String,
        /// As asked for.
        id: String,
        /// The newest there is.
        newest: Option<BackupId>,
    },
    /// No base backup at all.
    #[error("{repository} holds no base backup from which the target could be reached; make one with `backup create`")]
    NoBackup {
        /// The repository.
        repository: String,
    },
    /// A restore's target directory holds something.
    #[error("{} is not empty; restore into an empty directory, or remove this one if it holds nothing but a restore that died", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The text is not a restore target.
    #[error(
        "`{text}` is not a restore target: expected latest, a position as 0/1A2B3C4D, a time as 2026-11-21T08:15:00Z, or a backup id"
    )]
    Target {
        /// As given.
        text: String,
    },
    /// More files than one backup lists.
    #[error("the checkpoint has {files} files, more than the {files_max} of one backup")]
    TooManyFiles {
        /// Files there are.
        files: usize,
        /// Files allowed.
        files_max: usize,
    },
    /// A local file changed or is damaged.
    #[error("{} does not have the contents its name and the checkpoint promise; verify this node before trusting it", path.display())]
    LocalFile {
        /// The file.
        path: PathBuf,
    },
    /// A local file could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] seawall_engine::Error),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] seawall_wal::Error),
    /// Something this depends on has ended before.
    #[error("archiving has ended: {why}")]
    Ended {
        /// Why.
        why: String,
    },
    /// The work was called off.
    #[error("stopped before it was finished; archived up to {archived}, the log ends at {end}")]
    Unfinished {
        /// How far it came.
        archived: Lsn,
        /// How far it had to come.
        end: Lsn,
    },
}

impl Error {
    /// Whether trying again later may help without anybody's doing.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Repository(error) if error.is_transient())
    }

    /// Whether another history really was seen: this node's timeline ended, or was begun, elsewhere.
    pub fn is_superseded(&self) -> bool {
        matches!(self, Error::Fenced { .. } | Error::TimelineTaken { .. })
    }

    /// Whether this node's own log could not be read: it is damaged, or its disk does not serve it. That says nothing about
    /// anybody else's history, and passes once the log is repaired or the disk serves again.
    pub(crate) fn is_unreadable_log(&self) -> bool {
        use seawall_wal::Error as E;
        matches!(self, Error::Log(E::Corrupt { .. } | E::CorruptRecord { .. } | E::Io { .. }))
            && !planted(Mutant::UnreadableLogEndsArchiving)
    }

    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { operation, path, source }
    }
}

/// A time as people write it: RFC 3339 in UTC.
pub(crate) fn written(time: Timestamp) -> String {
    let micros = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| "beyond all time".to_owned(), |time| time.to_string())
}
