//! What can go wrong with the engine, by who must act: the disk, the operator, the caller, or a copy of the data.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use seawall_wal::{Lsn, SegmentId, SegmentNumber, TimelineId};

use crate::operator::MergeOperator;

use crate::level::{Backpressure, CommitLevel};
use crate::repair::Tried;
use crate::role::Refusal;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on the engine failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another handle of this one, has the directory open.
    #[error("{} is open elsewhere; close it there first", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// Something that must be made in an empty directory met a full one.
    #[error("{} is not empty; choose an empty directory", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A directory is opened that has not been made.
    #[error("{} holds no database", path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// The directory of an open database was removed, or has another name. Nothing more is written.
    #[error("{} was removed or moved while it was open; put it back and open it again", path.display())]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// There are files of a database but no control file: making, copying or restoring it was not finished.
    #[error("{} has {found} but no control file: if making or restoring it was interrupted, remove it and do it again; if the file was lost, keep everything and restore this node from a standby or the archive", path.display())]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// Neither copy of the control file is whole.
    #[error("both copies in the control file {} are damaged ({why}); restore this node from a standby or the archive", path.display())]
    CorruptControl {
        /// The file.
        path: PathBuf,
        /// What is wrong with the newer copy.
        why: &'static str,
    },
    /// The manifest is not the one the control file names.
    #[error("the manifest {} is damaged ({why}); restore this node from a standby or the archive", path.display())]
    CorruptManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A block of a table, or a value in a blob file, does not match its checksum. It is not served.
    #[error("the file {} is damaged at byte {offset} ({why}); restore this node from a standby or the archive", path.display())]
    CorruptTable {
        /// The file.
        path: PathBuf,
        /// The place of the block or record in it.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// Something is damaged, and no other copy of it helps. Nothing was changed.
    #[error("{damage}; it could not be repaired from another copy: {why}")]
    Irreparable {
        /// What is damaged.
        #[source]
        damage: Box<Error>,
        /// Why no copy helps.
        why: Box<Error>,
    },
    /// A segment of the log is damaged, and none of the other copies that were asked helps. Nothing was changed.
    #[error(
        "segment {segment} of timeline {timeline} is damaged from {at} on, byte {offset} of its file {}, and {}",
        SegmentId { number: *segment, timeline: *timeline }.file_name(), said_by_all(tried)
    )]
    NoCopy {
        /// The segment.
        segment: SegmentNumber,
        /// The timeline of that segment.
        timeline: TimelineId,
        /// The first position from which nothing valid follows.
        at: Lsn,
        /// Where that is in the segment's file, in bytes.
        offset: u32,
        /// Who was asked, in this order.
        tried: Vec<Tried>,
    },
    /// A record passed the log's checksums, but the engine cannot understand it.
    #[error("the record that ends at {lsn} is not understood ({why}); it was written by another version or program")]
    CorruptPayload {
        /// The record's LSN.
        lsn: Lsn,
        /// What is wrong.
        why: &'static str,
    },
    /// A file was written by a newer Seawall.
    #[error("{} has format version {version}, this build reads up to {supported}; use a newer build", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version read here.
        supported: u32,
    },
    /// A file was written by a Seawall from before its format was frozen.
    #[error("{} has format version {version}, which was never released; this build reads version {supported}: export the data with the build that wrote it", path.display())]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The version read here.
        supported: u32,
    },
    /// A directory belongs to another cluster than the one asked for, or has another segment size.
    #[error("{} has {field} {found}, not {expected}", path.display())]
    Mismatch {
        /// The directory.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// What is there.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// A key, value, name or batch is larger than it may be.
    #[error("a {what} of {size} bytes exceeds the {max} bytes it may have")]
    TooLarge {
        /// `key`, `value`, `batch`, `name`, the `read set` of a transaction, or a `merged value`, which cannot be read.
        what: &'static str,
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A merge operator cannot do anything with its operand. Nothing was written.
    #[error("an operand of {operator} has 8 bytes, a little-endian integer, and this one has {size}")]
    WrongOperand {
        /// The operator.
        operator: MergeOperator,
        /// Bytes given.
        size: usize,
    },
    /// One commit merges a key by several operators, and did not put or remove it before. Nothing was written.
    #[error(
        "key `{}` is merged by several operators in one commit; merge it by each of them in a commit of its own",
        shown(key)
    )]
    MixedOperators {
        /// The key.
        key: Bytes,
    },
    /// A batch removes more ranges than one may. Nothing was written.
    #[error("a batch may remove {max} ranges and this one removes more; remove them in several batches")]
    TooManyRanges {
        /// How many are allowed.
        max: usize,
    },
    /// Data to be loaded in bulk did not come in ascending order of its keys.
    #[error(
        "key `{}`, entry number {}, is not greater than the one before; sort the entries, each key once. Those before it may have been loaded",
        shown(key), entries + 1
    )]
    Unsorted {
        /// The key.
        key: Bytes,
        /// Entries before it.
        entries: u64,
    },
    /// A transaction reads or writes more than one may.
    #[error("a transaction may have {max} {what} and this one has more; do the work in smaller transactions")]
    TooMany {
        /// `reads`, `writes` or `removed ranges`.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// Something a transaction had read was changed by another commit. Nothing was written; it can be run again.
    #[error(
        "key `{}` of keyspace `{keyspace}` was changed by the commit at {lsn} after this transaction had read it; nothing was written, run the transaction again",
        shown(key)
    )]
    Conflict {
        /// The keyspace's name.
        keyspace: String,
        /// The key, or one of them.
        key: Bytes,
        /// The commit that changed it.
        lsn: Lsn,
    },
    /// Keys have at least one byte.
    #[error("a key must have at least one byte")]
    EmptyKey,
    /// A keyspace must have a name.
    #[error("a keyspace name must have at least one byte")]
    EmptyName,
    /// There is no such keyspace here, or it was dropped, or the handle belongs to another database.
    #[error("there is no keyspace `{name}` here")]
    UnknownKeyspace {
        /// Its name.
        name: String,
    },
    /// This node could take writes, and was told to refuse them ([`Db::refuse_writes`](crate::Db::refuse_writes)).
    #[error("this node takes no writes: {why}")]
    Refused {
        /// The gravest reason.
        reason: Refusal,
        /// What is the matter, and what to do.
        why: Arc<str>,
    },
    /// This node follows another one, or is a copy; it takes no writes.
    #[error("this node is read-only{}", match primary { Some(primary) => format!("; write to the primary, {primary}"), None => String::from("; promote it first, or write to its primary") })]
    ReadOnly {
        /// The primary, if it is known.
        primary: Option<String>,
    },
    /// The commit was not let in: somebody is too far behind. Nothing was written.
    #[error(transparent)]
    Backpressure(#[from] Backpressure),
    /// The commit is in the log, but whether it survives, or reached the level asked for, is unknown.
    #[error("no confirmation for the commit at {lsn}: {why}; whether it survives is unknown")]
    Indeterminate {
        /// The commit's LSN.
        lsn: Lsn,
        /// Why the wait ended.
        why: Cow<'static, str>,
    },
    /// Nothing here can confirm that level.
    #[error("commit level {level} is not available: {why}")]
    LevelUnavailable {
        /// The level asked for.
        level: CommitLevel,
        /// What is missing.
        why: String,
    },
    /// No room on the disk. Reads go on; writes come back when there is room.
    #[error("the disk of {} is full; free space, and writes go on by themselves", path.display())]
    DiskFull {
        /// The data directory.
        path: PathBuf,
    },
    /// Nothing fits into memory or onto level 0 any more, because what makes room fails again and again. Nothing was written;
    /// reads go on; writes come back when it succeeds.
    #[error(
        "no commit is let in until {work} succeeds, and it fails: {cause}; it is tried again every few seconds, and writes go on by themselves"
    )]
    Stuck {
        /// `writing memtables out` or `merging tables`.
        work: &'static str,
        /// Why the last try failed.
        #[source]
        cause: Box<Error>,
    },
    /// An earlier write or sync of the log failed, or applying a record did. Nothing more is written until reopened.
    #[error("the database stopped taking writes after an error and must be reopened: {cause}")]
    Poisoned {
        /// The first error.
        cause: Arc<str>,
    },
    /// The versions that this snapshot needs may be gone.
    #[error("{requested} can no longer be read; the oldest position that can is {oldest}")]
    SnapshotTooOld {
        /// What was asked for.
        requested: Lsn,
        /// The oldest that can be had.
        oldest: Lsn,
    },
    /// The position is not durable and applied here yet.
    #[error("{requested} cannot be read yet; this node is at {visible}")]
    SnapshotTooNew {
        /// What was asked for.
        requested: Lsn,
        /// The newest that can be had.
        visible: Lsn,
    },
    /// The operation does not fit what the node is doing.
    #[error("cannot {operation}: {actual}")]
    WrongState {
        /// What was tried.
        operation: &'static str,
        /// What stands against it.
        actual: String,
    },
    /// What was handed over to build a data directory from does not fit together, or its log could not be written.
    #[error("cannot install {}: {why}", path.display())]
    Install {
        /// The directory to be built.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The disk does not answer, so closing was not waited for any longer. It goes on by itself; what was not durable before may
    /// still become so.
    #[error("the disk of {} has not answered for {} s, so the database is not closed yet; its directory stays locked until the disk answers or this process ends", path.display(), since.as_secs())]
    Stalled {
        /// The data directory.
        path: PathBuf,
        /// For how long it was waited.
        since: Duration,
    },
    /// The database is being closed.
    #[error("the database is closed")]
    Closed,
    /// The storage refused an operation.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The storage's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The log failed.
    #[error(transparent)]
    Log(seawall_wal::Error),
}

impl Error {
    /// Whether somebody who may have another copy did not answer, so that trying again later may help.
    pub fn is_for_want_of_an_answer(&self) -> bool {
        match self {
            Self::Irreparable { why, .. } => why.is_for_want_of_an_answer(),
            Self::NoCopy { tried, .. } => tried.iter().any(|tried| tried.was_silent),
            Self::Log(seawall_wal::Error::SourceSilent { .. }) => true,
            _ => false,
        }
    }

    /// Whether all who may have another copy of what is damaged answered, and none helps. Anything else that stands in the way
    /// of a repair, such as a full disk or a segment that is still being written, passes.
    pub fn says_that_no_copy_helps(&self) -> bool {
        match self {
            Self::Irreparable { why, .. } => why.says_that_no_copy_helps(),
            Self::NoCopy { .. } => !self.is_for_want_of_an_answer(),
            // Of a file: the copy is damaged too, no base backup has it, or there is no archive.
            Self::Install { .. } | Self::WrongState { .. } | Self::Log(seawall_wal::Error::Source { .. }) => true,
            _ => false,
        }
    }

    /// Of a file whose version is not the one that is read here.
    pub(crate) fn version(path: &Path, version: u32, supported: u32) -> Self {
        let path = path.to_owned();
        match version > supported {
            true => Self::TooNew { path, version, supported },
            false => Self::TooOld { path, version, supported },
        }
    }
}

impl From<seawall_wal::Error> for Error {
    fn from(error: seawall_wal::Error) -> Self {
        match error {
            seawall_wal::Error::DiskFull { path } => Self::DiskFull { path },
            seawall_wal::Error::Poisoned { cause, .. } => Self::Poisoned { cause },
            seawall_wal::Error::Closed => Self::Closed,
            seawall_wal::Error::TimedOut { lsn } => Self::Indeterminate { lsn, why: "the deadline passed".into() },
            // Nothing was added: it can be tried again, by whoever wants to.
            seawall_wal::Error::Stalled { path, .. } => Self::Backpressure(Backpressure {
                reason: String::from("the disk does not answer"),
                subject: path.display().to_string(),
                retry_after: Duration::from_secs(1),
            }),
            seawall_wal::Error::TooLarge { size, max } => Self::TooLarge { what: "batch", size, max },
            other => Self::Log(other),
        }
    }
}

fn said_by_all(tried: &[Tried]) -> String {
    match tried {
        [] => String::from("no other copy of it is known"),
        _ => format!("no other copy helps: {}", tried.iter().map(Tried::to_string).collect::<Vec<_>>().join("; ")),
    }
}

/// The beginning of a key, as it can be printed.
fn shown(key: &[u8]) -> String {
    const LEN_MAX: usize = 64;
    let ellipsis = if key.len() > LEN_MAX { "..." } else { "" };
    format!("{}{ellipsis}", key[..key.len().min(LEN_MAX)].escape_ascii())
}

/// Turns what the storage says into an error that names the file; a full disk becomes [`Error::DiskFull`].
pub(crate) fn at<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { path: path.to_owned() },
        _ => Error::Io { operation, path: path.to_owned(), source: Arc::new(error) },
    }
}
