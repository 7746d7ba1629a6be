//! Repair: what is found damaged is fetched from another copy, proven, and put in place of it, while the database is open or
//! when it cannot be opened. ARCHITECTURE.md, "Repair".

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::storage::{Storage, replace_file};
use seawall_wal::{
    ClusterId, Error as WalError, LogPlace, SealedSegments, SegmentId, SegmentSize, SegmentSource, TimelineHistory,
};

use crate::control::{Control, ControlFile};
use crate::core::Core;
use crate::db::Db;
use crate::error::{Error, Result, at};
use crate::file::{FileHash, FileKind};
use crate::install::TableSource;
use crate::manifest::Manifest;
use crate::mutant::{Mutant, planted};
use crate::open::{LOG_FOLDER, lock};
use crate::options::Builder;

/// Where else the bytes of a data directory can be had.
#[derive(Clone, Debug)]
pub struct Copies {
    /// Its log, in the order in which they are asked.
    pub log: Vec<Arc<dyn SegmentSource>>,
    /// Its tables and blob files.
    pub tables: Arc<dyn TableSource>,
}

/// A copy of a segment that did not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Whose it is.
    pub copy: String,
    /// Why it does not help.
    pub why: String,
    /// Whether that is because nobody answered, so that it may help later.
    pub was_silent: bool,
}

impl Tried {
    /// What an error says of a copy; `None` if the error is not the copy's but this node's own.
    fn of(source: &dyn SegmentSource, error: &WalError) -> Option<Self> {
        let (copy, why, was_silent) = match error {
            WalError::Source { source_name, why, .. } => (source_name.as_str(), why.clone(), false),
            WalError::SourceSilent { source_name, why, .. } => (source_name.as_str(), why.clone(), true),
            WalError::CorruptRecord { .. } => (source.name(), format!("its copy is damaged too: {error}"), false),
            WalError::Foreign { field, .. } => {
                (source.name(), format!("its copy is of another log, with another {field}"), false)
            }
            WalError::WrongCluster { .. } => (source.name(), error.to_string(), false),
            _ => return None,
        };
        Some(Self { copy: copy.to_owned(), why, was_silent })
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { copy, why, was_silent } = self;
        write!(f, "{copy}{}: {why}", if *was_silent { " does not answer" } else { "" })
    }
}

impl Copies {
    /// Has a segment repaired from the first copy that helps. One that lacks it, does not answer, or cannot be proven is
    /// passed over; an error of this node's own disk is not.
    fn repair_segment(
        &self,
        damage: seawall_wal::Damage,
        size: SegmentSize,
        history: &TimelineHistory,
        repair: impl Fn(&dyn SegmentSource) -> seawall_wal::Result<seawall_wal::Repaired>,
    ) -> Result<seawall_wal::Repaired> {
        let mut tried = Vec::new();
        for source in &self.log {
            match repair(&**source) {
                Ok(done) => return Ok(done),
                Err(error) => tried.push(Tried::of(&**source, &error).ok_or(error)?),
            }
            if planted(Mutant::OneCopyAsked) {
                break;
            }
        }
        let seawall_wal::Damage { segment, at } = damage;
        let timeline = history.of_segment(segment, size).id;
        let offset = u32::try_from(at.distance_from(size.start_of(segment))).unwrap_or(u32::MAX);
        Err(Error::NoCopy { segment, timeline, at, offset, tried })
    }
}

/// What was found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A segment of the log.
    Segment(seawall_wal::Damage),
    /// A table or blob file, or it is not there.
    File(FileKind, FileHash),
}

impl Damage {
    /// What an error says is damaged, if another copy of it could help.
    pub fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Log(seawall_wal::Error::Corrupt { at, segment, .. }) => {
                Some(Self::Segment(seawall_wal::Damage { segment: *segment, at: *at }))
            }
            Error::CorruptTable { path, .. } => Self::of_file(path),
            Error::Io { operation: "open", path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::of_file(path)
            }
            _ => None,
        }
    }

    fn of_file(path: &Path) -> Option<Self> {
        let (kind, hash) = FileKind::of_file_name(path.file_name()?.to_str()?)?;
        Some(Self::File(kind, hash))
    }
}

impl Damage {
    /// What it is, with the name of its file.
    pub fn describe(&self, history: &TimelineHistory, size: SegmentSize) -> String {
        match self {
            Self::Segment(damage) => {
                let timeline = history.of_segment(damage.segment, size).id;
                let name = SegmentId { number: damage.segment, timeline }.file_name();
                format!("{self} ({LOG_FOLDER}/{name})")
            }
            Self::File(kind, hash) => {
                format!("{self} ({})", kind.path_in(Path::new(""), hash).display())
            }
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(damage) => write!(f, "segment {} of the log, from {} on", damage.segment, damage.at),
            Self::File(kind, hash) => write!(f, "{kind} {hash}"),
        }
    }
}

/// What was put in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What was damaged.
    pub damage: Damage,
    /// The file.
    pub path: PathBuf,
    /// Where the damaged file is kept, if it is.
    pub kept: Option<PathBuf>,
    /// How it came to be whole.
    pub how: How,
}

/// How something that was damaged is whole again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By another copy.
    Copied,
    /// The device had not read it, and did when it was asked again.
    ReadAgain,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copied => "damage was repaired from another copy",
            Self::ReadAgain => "what could not be read was read again and is whole",
        })
    }
}

impl Builder {
    /// Opens the database. What is found damaged or missing on the way is fetched from another copy, proven and put in its
    /// place, one thing after the other, and then opening begins again. `copies` is asked for when there is damage, for those
    /// of this cluster's data, with segments of this size. Says what was repaired.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Error::Irreparable`] if no copy helps: then it is as it was.
    pub fn open_repairing(
        self,
        mut copies: impl FnMut(ClusterId, SegmentSize) -> Copies,
    ) -> Result<(Db, Vec<Repaired>)> {
        let mut repaired: Vec<Repaired> = Vec::new();
        loop {
            let error = match self.clone().open() {
                Ok(db) => return Ok((db, repaired)),
                Err(error) => error,
            };
            let Some(damage) = Damage::of(&error) else { return Err(error) };
            // What was repaired and is damaged again is beyond this.
            if repaired.iter().any(|done| done.damage == damage) {
                return Err(error);
            }
            let done = self.repair(&damage, &mut copies);
            let done = done.map_err(|why| Error::Irreparable { damage: Box::new(error), why: Box::new(why) })?;
            tracing::warn!(damage = %done.damage, path = %done.path.display(), kept = ?done.kept, "{}", done.how);
            repaired.push(done);
        }
    }

    /// What of the log in the directory is sealed, whether anybody has it open or not, and what the control file says of it: for
    /// a node that cannot open it yet and helps others meanwhile.
    ///
    /// # Errors
    /// Without a control file that can be read nothing is known of the log.
    pub fn sealed_log(&self) -> Result<(Control, SealedSegments)> {
        let storage = self.storage_or_disk();
        let Some((control, _)) = ControlFile::read(&*storage, &self.path)? else {
            return Err(Error::NotFound { path: self.path.clone() });
        };
        let (dir, history) = (self.path.join(LOG_FOLDER), control.history.clone());
        let Control { cluster, segment_size, .. } = control;
        Ok((control, SealedSegments { storage, dir, cluster, segment_size, history }))
    }

    /// Puts something in order in a directory that nobody has open.
    fn repair(&self, damage: &Damage, copies: &mut impl FnMut(ClusterId, SegmentSize) -> Copies) -> Result<Repaired> {
        let storage = self.storage_or_disk();
        let _lock = lock(&*storage, &self.path)?;
        let control = match ControlFile::read(&*storage, &self.path)? {
            Some((control, _)) => control,
            None => return Err(Error::NotFound { path: self.path.clone() }),
        };
        let copies = copies(control.cluster, control.segment_size);
        match damage {
            Damage::Segment(found) => {
                let dir = self.path.join(LOG_FOLDER);
                let Control { cluster, segment_size, history, .. } = control;
                let place = LogPlace { storage: &*storage, dir: &dir, cluster, segment_size, history: &history };
                let done =
                    copies.repair_segment(*found, segment_size, &history, |source| place.repair(*found, source))?;
                Ok(Repaired { damage: damage.clone(), path: done.path, kept: done.kept, how: How::Copied })
            }
            Damage::File(kind, hash) => {
                let (manifest, _) =
                    Manifest::read(&*storage, &self.path, control.manifest_number, &control.manifest_digest)?;
                let path = put_file(&*storage, &self.path, *kind, hash, &manifest, &*copies.tables)?;
                Ok(Repaired { damage: damage.clone(), path, kept: None, how: How::Copied })
            }
        }
    }
}

impl Db {
    /// Damage that was met since the database was opened, by readers, merges, or those who pass the log on, and that was not
    /// repaired. What is damaged is not served.
    pub fn damages(&self) -> Vec<Damage> {
        let mut all: Vec<_> = self.log().damages().into_iter().map(Damage::Segment).collect();
        let files = self.core().state.store.damages();
        if !files.is_empty() {
            // One that no version uses any more is about to be removed.
            let (manifest, ..) = self.core().durable.current(&self.core().state);
            let used = |file: &(FileKind, FileHash)| manifest.files().any(|(_, hash, _)| hash == file.1);
            all.extend(files.into_iter().filter(used).map(|(kind, hash)| Damage::File(kind, hash)));
        }
        all
    }

    /// Puts something in order while the database is open. Blocks; holds a segment, or a file, in memory. A segment that could not
    /// be read is read again before a copy is asked for.
    ///
    /// # Errors
    /// What stands in the way; then nothing was changed.
    pub fn repair(&self, damage: &Damage, copies: &Copies) -> Result<Repaired> {
        match damage {
            Damage::Segment(found) => {
                let (log, size) = (self.log(), self.log().options().segment_size);
                if log.read_again(found.segment)? {
                    let timeline = log.history().of_segment(found.segment, size).id;
                    let path = log.dir().join(SegmentId { number: found.segment, timeline }.file_name());
                    return Ok(Repaired { damage: damage.clone(), path, kept: None, how: How::ReadAgain });
                }
                let repair = |source: &dyn SegmentSource| log.repair(*found, source);
                let done = copies.repair_segment(*found, size, &log.history(), repair)?;
                Ok(Repaired { damage: damage.clone(), path: done.path, kept: done.kept, how: How::Copied })
            }
            Damage::File(kind, hash) => self.core().repair_file(*kind, hash, &*copies.tables),
        }
    }
}

impl Core {
    fn repair_file(&self, kind: FileKind, hash: &FileHash, source: &dyn TableSource) -> Result<Repaired> {
        // No merge ends meanwhile, so the file is not let go while it is written again.
        let _one = self.compacting.lock();
        let (manifest, ..) = self.durable.current(&self.state);
        let path = put_file(&**self.durable.storage(), &self.path, kind, hash, &manifest, source)?;
        self.durable.reopen(&self.state, kind, hash)?;
        Ok(Repaired { damage: Damage::File(kind, *hash), path, kept: None, how: How::Copied })
    }
}

/// Fetches a file that the manifest names and puts it in its place. Its name is its digest, which proves it.
fn put_file(
    storage: &dyn Storage,
    folder: &Path,
    kind: FileKind,
    hash: &FileHash,
    manifest: &Manifest,
    source: &dyn TableSource,
) -> Result<PathBuf> {
    let path = kind.path_in(folder, hash);
    let unproven = |why| Error::Install { path: path.clone(), why };
    let named = manifest.files().find(|(_, known, _)| known == hash);
    let (.., size) = named.ok_or_else(|| unproven(format!("the database does not use {kind} {hash} any more")))?;
    let bytes = source.fetch(hash, size)?;
    let is_it = bytes.len() as u64 == size && blake3::hash(&bytes).as_bytes() == hash.as_bytes();
    if !is_it && !planted(Mutant::RepairsUnproven) {
        return Err(unproven(format!("the copy of {kind} {hash} is damaged too")));
    }
    replace_file(storage, &path, &bytes).map_err(at("replace", &path))?;
    Ok(path)
}
