//! Opening a data directory: lock, control file, manifest, tables, and then the log, whose records after the redo
//! position are applied in order. Making a new directory is the same with an empty manifest.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::storage::{Access, Storage};
use seawall_wal::{
    ClusterId, Log, LogMode, LogOptions, NodeId, OpenAt, Position, Record, SegmentNumber, SegmentSize, Threads,
    TimelineHistory, TimelineNonce,
};

use crate::compaction::Shapes;
use crate::control::{Control, ControlFile, DamagedSlot, Role};
use crate::core::{Core, LockGuard, Parts, Settings};
use crate::db::Db;
use crate::durable::Durable;
use crate::error::{Error, Result, at};
use crate::file::TABLES_FOLDER;
use crate::flush::{RedoPlace, flush_set};
use crate::gate::{Bands, Gate};
use crate::manifest::{Manifest, manifest_path};
use crate::marks::Moment;
use crate::memtable::ChunkPool;
use crate::mutant::{Mutant, planted};
use crate::options::{Background, Builder, Create, OpenAs};
use crate::state::State;
use crate::table::TableStore;

/// The log's folder in a data directory.
pub(crate) const LOG_FOLDER: &str = "wal";

pub(crate) fn open(builder: Builder) -> Result<Db> {
    let storage = builder.storage_or_disk();
    let path = builder.path.clone();
    if builder.create != Create::Never {
        make_folder(&*storage, &path)?;
    }
    let lock = lock(&*storage, &path)?;
    let (control, damaged_control) = match ControlFile::open(&*storage, &path)? {
        Some(_) if builder.create == Create::Always => return Err(Error::NotEmpty { path }),
        Some((control, damaged)) => (control, damaged),
        None if builder.create == Create::Never => return Err(missing(&*storage, &path)?),
        None => (create(&*storage, &path, &builder)?, Vec::new()),
    };
    for slot in &damaged_control {
        let DamagedSlot { slot, why } = slot;
        tracing::error!(path = %path.display(), slot, why, "a copy of the control file is damaged; the other one is used");
    }
    let recorded = control.get();
    check_expected(&path, &builder, &recorded)?;
    let (manifest, manifest_bytes) =
        Manifest::read(&*storage, &path, recorded.manifest_number, &recorded.manifest_digest)?;
    if manifest.cluster != recorded.cluster {
        return Err(mismatch(&manifest_path(&path, manifest.number), "cluster", manifest.cluster, recorded.cluster));
    }
    let store = TableStore::new(Arc::clone(&storage), &path, builder.cache_bytes);
    let pool = ChunkPool::new(builder.memtable_bytes, builder.background == Background::Threads);
    let state = State::open(store, &manifest, &manifest_path(&path, manifest.number), pool)?;
    control.settle()?;
    sweep(&*storage, &path, &state, manifest.number)?;
    let at = OpenAt {
        history: recorded.history.clone(),
        start: manifest.log_start,
        time_floor: manifest.time_floor(),
        watermark: recorded.watermark,
    };
    if builder.open_as == OpenAs::Standby && recorded.role != Role::Standby {
        control.update(|control| control.role = Role::Standby)?;
    }
    let mode = match control.with(|control| control.role == Role::Normal) {
        true => LogMode::Append,
        false => LogMode::Receive,
    };
    let durable = Durable::new(Arc::clone(&storage), &path, control, manifest, manifest_bytes);
    let options = log_options(&builder, recorded.cluster, recorded.node, recorded.segment_size);
    let shapes = Shapes { usual: builder.shape, tuned: builder.tuned };
    let mut replay = Replay {
        state: &state,
        durable: &durable,
        shapes: &shapes,
        history: &recorded.history,
        segment_size: recorded.segment_size,
        log_folder: path.join(LOG_FOLDER),
        memtable_bytes: builder.memtable_bytes,
        segment: None,
        segment_start: at.start,
        end: at.start,
        log_synced: false,
    };
    let (log, recovery) = Log::open::<Error>(
        Arc::clone(&storage),
        Arc::clone(&builder.clock),
        &path.join(LOG_FOLDER),
        options,
        &at,
        mode,
        |records| replay.records(records),
    )?;
    // What the log came back with is durable, and not less than before.
    let flushed = log.flushed().value();
    durable.control.update(|control| {
        control.watermark = flushed;
        control.clean_shutdown = false;
    })?;
    let bands = Bands { frozen_max: builder.frozen_max, level1_bytes: builder.shape.level1_bytes };
    let settings = Settings {
        retention: builder.retention,
        background: builder.background,
        memtable_bytes: builder.memtable_bytes,
        stall_timeout: builder.stall_timeout,
        shapes,
        merge_threads: builder.merge_threads,
        clock: Arc::clone(&builder.clock),
    };
    let gate = Gate::new(&path, bands);
    let core = Core::new(Parts { path, settings, state, durable, log, recovery, damaged_control, gate, lock });
    Db::start(core, builder.background)
}

/// Makes the folder, and its name durable.
pub(crate) fn make_folder(storage: &dyn Storage, path: &Path) -> Result<()> {
    for folder in [path.to_owned(), path.join(TABLES_FOLDER), path.join(LOG_FOLDER)] {
        storage.create_dir_all(&folder).map_err(at("create", &folder))?;
    }
    storage.sync_dir(path).map_err(at("sync", path))?;
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    storage.sync_dir(parent).map_err(at("sync", parent))
}

pub(crate) fn lock(storage: &dyn Storage, path: &Path) -> Result<LockGuard> {
    match storage.lock(path) {
        Ok(guard) => Ok(LockGuard(guard)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && planted(Mutant::SecondOpenerLetIn) => {
            Ok(LockGuard(Box::new(())))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Locked { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NotFound { path: path.to_owned() }),
        Err(error) => Err(at("lock", path)(error)),
    }
}

/// What there is of a database in a folder without a control file.
pub(crate) fn remains(storage: &dyn Storage, path: &Path) -> Result<Option<String>> {
    let list = |folder: &Path| match storage.list(folder) {
        Ok(names) => Ok(names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at("list", folder)(error)),
    };
    let own = list(path)?.into_iter().filter(|name| name.starts_with("manifest-"));
    let log = list(&path.join(LOG_FOLDER))?.into_iter().map(|name| format!("{LOG_FOLDER}/{name}"));
    let tables = list(&path.join(TABLES_FOLDER))?.into_iter().map(|name| format!("{TABLES_FOLDER}/{name}"));
    Ok(log.chain(tables).chain(own).next())
}

fn missing(storage: &dyn Storage, path: &Path) -> Result<Error> {
    let path = path.to_owned();
    Ok(match remains(storage, &path)? {
        Some(found) => Error::Incomplete { path, found },
        None => Error::NotFound { path },
    })
}

/// Makes a new database: an empty manifest first, the control file last.
fn create(storage: &dyn Storage, path: &Path, builder: &Builder) -> Result<ControlFile> {
    let first = manifest_path(path, 1);
    match remains(storage, path)? {
        // Making one was interrupted before it had anything but its empty manifest: it starts over.
        Some(found) if !first.file_name().is_some_and(|name| found.starts_with(&*name.to_string_lossy())) => {
            return Err(Error::Incomplete { path: path.to_owned(), found });
        }
        _ => {}
    }
    let cluster = builder.cluster.unwrap_or_else(ClusterId::random);
    let manifest = Manifest::empty(cluster);
    let manifest_digest = manifest.write(storage, path)?;
    let control = Control {
        cluster,
        node: builder.node.unwrap_or_else(NodeId::random),
        segment_size: builder.segment_size.unwrap_or(SegmentSize::DEFAULT),
        // Known to whoever knows the cluster, so that an empty standby can say which history it is to follow.
        history: TimelineHistory::first(TimelineNonce::from_bytes(cluster.to_bytes())),
        watermark: Position::ZERO.lsn,
        clean_shutdown: false,
        manifest_number: manifest.number,
        manifest_digest,
        role: Role::Normal,
    };
    ControlFile::create(storage, path, control)
}

fn check_expected(path: &Path, builder: &Builder, recorded: &Control) -> Result<()> {
    if let Some(cluster) = builder.cluster.filter(|cluster| *cluster != recorded.cluster) {
        return Err(mismatch(path, "cluster", recorded.cluster, cluster));
    }
    match builder.segment_size.filter(|size| *size != recorded.segment_size) {
        Some(size) => Err(mismatch(path, "segment size", recorded.segment_size.bytes(), size.bytes())),
        None => Ok(()),
    }
}

fn mismatch(path: &Path, field: &'static str, found: impl ToString, expected: impl ToString) -> Error {
    Error::Mismatch { path: path.to_owned(), field, found: found.to_string(), expected: expected.to_string() }
}

/// Removes what an earlier run left behind: unfinished files, and tables and manifests that are not current.
fn sweep(storage: &dyn Storage, path: &Path, state: &State, current: u64) -> Result<()> {
    let mut removed = state.store.sweep()?;
    let current = manifest_path(path, current);
    for name in storage.list(path).map_err(at("list", path))? {
        let file = path.join(&name);
        if name.ends_with(".tmp") || name.starts_with("manifest-") && file != current {
            storage.remove(&file).map_err(at("remove", &file))?;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(path = %path.display(), files = removed, "removed what an earlier run left behind");
    }
    Ok(())
}

pub(crate) fn log_options(
    builder: &Builder,
    cluster: ClusterId,
    node: NodeId,
    segment_size: SegmentSize,
) -> LogOptions {
    LogOptions {
        segment_size,
        buffer_bytes_max: builder.log_buffer_bytes,
        stall_timeout: builder.stall_timeout,
        threads: match builder.background {
            Background::Threads => Threads::Background,
            Background::Inline => Threads::Inline,
        },
        ..LogOptions::new(cluster, node)
    }
}

/// Recovery: applies records, and writes memtables out when they are full, so that memory stays bounded.
struct Replay<'a> {
    state: &'a State,
    durable: &'a Durable,
    shapes: &'a Shapes,
    history: &'a TimelineHistory,
    segment_size: SegmentSize,
    log_folder: PathBuf,
    memtable_bytes: u64,
    segment: Option<SegmentNumber>,
    /// Where the records before the current segment end.
    segment_start: Position,
    end: Position,
    log_synced: bool,
}

impl Replay<'_> {
    fn records(&mut self, mut records: &[Record<'_>]) -> Result<()> {
        while !records.is_empty() {
            let applied = self.state.apply_records(records, self.memtable_bytes)?;
            let (applied, rest) = records.split_at(applied);
            applied.iter().for_each(|record| self.note(record));
            if self.state.view().active.bytes() >= self.memtable_bytes {
                self.write_out()?;
            }
            records = rest;
        }
        Ok(())
    }

    fn note(&mut self, record: &Record<'_>) {
        let segment = self.segment_size.segment_of(record.header.start);
        if self.segment != Some(segment) {
            self.segment = Some(segment);
            self.segment_start = self.end;
        }
        self.end = record.position();
    }

    /// Writes the memtables out as tables.
    fn write_out(&mut self) -> Result<()> {
        self.sync_log()?;
        // After a record that fills its segment, or at a fork, reading starts with the next segment.
        let next = self.history.next_byte(self.end.lsn);
        let boundary = self.segment_size.boundary_at_or_after(next) == next;
        let log_start = if boundary { self.end } else { self.segment_start };
        let frozen = self.state.freeze(Some(log_start));
        let place = RedoPlace { timeline: self.history.of_position(self.end.lsn).id, log_start, flushed: self.end.lsn };
        // Readers that need old versions are not there yet to say so.
        let everything = Moment { lsn: seawall_wal::Lsn::ZERO, time: seawall_wal::Timestamp(0) };
        flush_set(self.state, self.durable, self.shapes, &frozen, place, everything, &|_| ())
    }

    /// Records can be handed over before they are durable: the process before us may have been killed between its write
    /// and its sync. No table may be ahead of the log, so the log is synced before the first one.
    fn sync_log(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.log_synced, true) || planted(Mutant::RecoveryTablesAheadOfLog) {
            return Ok(());
        }
        let storage = self.durable.storage();
        for name in storage.list(&self.log_folder).map_err(at("list", &self.log_folder))? {
            if name.ends_with(".wal") {
                let path = self.log_folder.join(name);
                let synced = storage.open(&path, Access::Write).and_then(|file| file.sync_data());
                synced.map_err(at("sync", &path))?;
            }
        }
        storage.sync_dir(&self.log_folder).map_err(at("sync", &self.log_folder))
    }
}
