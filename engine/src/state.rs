//! The state in memory: the current view, the keyspaces, how far records were applied, and which old versions readers
//! may still need. It knows no log; `apply` changes it, `flush` and `compaction` exchange its tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use seawall_wal::sync::atomic::{AtomicU64, Ordering};
use seawall_wal::sync::{Mutex, MutexGuard, RwLock};
use seawall_wal::{Lsn, Position, Timestamp};

use crate::catalogue::Catalogue;
use crate::compaction::Tally;
use crate::error::{Error, Result};
use crate::manifest::{BlobEntry, Manifest};
use crate::marks::TimeMarks;
use crate::memtable::{ChunkPool, FrozenSet, MemtableSet};
use crate::table::TableStore;
use crate::version::{TableSet, View};

/// How far records were applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied {
    /// The end of the last record applied.
    pub(crate) position: Position,
    /// Its time.
    pub(crate) time: Timestamp,
}

/// The state.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: TableStore,
    /// The memory of memtables, which goes round.
    pool: Arc<ChunkPool>,
    view: ArcSwap<View>,
    /// Held by the one who changes the view.
    view_change: Mutex<()>,
    catalogue: RwLock<Catalogue>,
    /// Held by the one who applies a record, or freezes.
    applied: Mutex<Applied>,
    /// `applied.position.lsn`, for readers.
    applied_lsn: AtomicU64,
    pub(crate) readers: Readers,
    /// What writing tables costs.
    pub(crate) tally: Tally,
}

impl State {
    /// The state that a manifest describes, with its tables open. It is meant to have no more in the active memtables than
    /// the pool is for. `path` is the manifest's.
    pub(crate) fn open(store: TableStore, manifest: &Manifest, path: &Path, pool: ChunkPool) -> Result<Self> {
        let pool = Arc::new(pool);
        let mut tables = TableSet::default();
        for BlobEntry { keyspace, meta } in &manifest.blobs {
            store.open_blob(*keyspace, *meta)?;
        }
        for entry in &manifest.tables {
            tables.add(entry.level as usize, store.open(entry.keyspace, entry.meta.clone())?);
        }
        check_blobs(&tables, manifest).map_err(|why| Error::CorruptManifest { path: path.to_owned(), why })?;
        let active = Arc::new(MemtableSet::new(&pool));
        let marks = Arc::new(TimeMarks::new(manifest.marks.clone()));
        let view = View { active, frozen: Vec::new(), tables: Arc::new(tables), floor: manifest.floor, marks };
        Ok(Self {
            store,
            pool,
            view: ArcSwap::from_pointee(view),
            view_change: Mutex::new(()),
            catalogue: RwLock::new(Catalogue::new(&manifest.keyspaces, manifest.next_keyspace)),
            applied: Mutex::new(Applied { position: manifest.redo, time: manifest.redo_time }),
            applied_lsn: AtomicU64::new(manifest.redo.lsn.offset()),
            readers: Readers::new(manifest.floor),
            tally: Tally::default(),
        })
    }

    /// The current view, for one look at it: readers on all cores share no counter for it.
    pub(crate) fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    pub(crate) fn change_view<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        let _one = self.view_change.lock();
        let mut next = View::clone(&self.view.load());
        let answer = change(&mut next);
        self.view.store(Arc::new(next));
        answer
    }

    pub(crate) fn with_catalogue<T>(&self, look: impl FnOnce(&Catalogue) -> T) -> T {
        look(&self.catalogue.read())
    }

    pub(crate) fn change_catalogue<T>(&self, change: impl FnOnce(&mut Catalogue) -> T) -> T {
        change(&mut self.catalogue.write())
    }

    pub(crate) fn applied(&self) -> Applied {
        *self.applied.lock()
    }

    pub(crate) fn applied_lsn(&self) -> Lsn {
        Lsn::new(self.applied_lsn.load(Ordering::Acquire))
    }

    /// The right to apply records; waits for whoever has it.
    pub(crate) fn applying(&self) -> Applying<'_> {
        Applying { state: self, applied: self.applied.lock() }
    }

    /// Marks the record at `lsn` if a second begins there that matters. `expires` is whether it writes something that can
    /// expire. The caller is the one who applies.
    pub(crate) fn mark_time(&self, lsn: Lsn, time: Timestamp, expires: bool) {
        if self.view().marks.want(time, expires) {
            self.change_view(|view| Arc::make_mut(&mut view.marks).push(lsn, time));
        }
    }

    /// Freezes the active memtables at the LSN applied last; new ones take over. `log_start` is where the records before
    /// the segment of that LSN end, if the caller knows.
    pub(crate) fn freeze(&self, log_start: Option<Position>) -> Arc<FrozenSet> {
        let applied = self.applied.lock();
        let (keyspaces, next_keyspace) = self.with_catalogue(|catalogue| (catalogue.entries(), catalogue.next()));
        self.change_view(|view| {
            let frozen = Arc::new(FrozenSet {
                set: std::mem::replace(&mut view.active, Arc::new(MemtableSet::new(&self.pool))),
                end: applied.position,
                time: applied.time,
                log_start,
                keyspaces,
                next_keyspace,
            });
            view.frozen.push(Arc::clone(&frozen));
            frozen
        })
    }
}

/// Whether the tables refer to the blob files that the manifest names, to each, and to no more than is in it.
fn check_blobs(tables: &TableSet, manifest: &Manifest) -> Result<(), &'static str> {
    if tables.blob_entries() != manifest.blobs {
        return Err("it names a blob file that no table refers to");
    }
    let shares = tables.keyspaces().flat_map(|(_, levels)| levels.blobs().values());
    for (file, share) in shares {
        if share.values > file.meta().values || share.bytes > file.meta().bytes {
            return Err("its tables refer to more of a blob file than is in it");
        }
    }
    Ok(())
}

/// The right to apply records: one has it at a time, and nothing is frozen meanwhile.
pub(crate) struct Applying<'a> {
    state: &'a State,
    applied: MutexGuard<'a, Applied>,
}

impl Applying<'_> {
    /// The end of the last record applied.
    pub(crate) fn lsn(&self) -> Lsn {
        self.applied.position.lsn
    }

    /// Runs `apply`, and then counts the record at `position` as applied.
    pub(crate) fn advance(
        &mut self,
        position: Position,
        time: Timestamp,
        apply: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        assert!(position.lsn > self.lsn(), "records are applied in the order of their LSNs");
        self.state.mark_time(position.lsn, time, false);
        apply()?;
        *self.applied = Applied { position, time };
        // Readers that see this LSN find everything the record put into the memtables.
        self.state.applied_lsn.store(position.lsn.offset(), Ordering::Release);
        Ok(())
    }
}

/// Which old versions readers may still need.
#[derive(Debug)]
pub(crate) struct Readers {
    registered: Mutex<Registered>,
}

#[derive(Debug)]
struct Registered {
    /// Snapshots held, by LSN.
    pins: BTreeMap<Lsn, usize>,
    /// Versions are kept readable down to here, if set.
    horizon: Option<Lsn>,
    /// Versions needed only below it may be gone. Rises; `floor <= every pin`.
    floor: Lsn,
}

impl Registered {
    /// How high the floor may be, with `limit` as a bound. It never falls.
    fn allowed(&self, limit: Lsn) -> Lsn {
        let pinned = self.pins.first_key_value().map_or(Lsn::MAX, |(lsn, _)| *lsn);
        self.floor.max(limit.min(pinned).min(self.horizon.unwrap_or(Lsn::MAX)))
    }
}

impl Readers {
    fn new(floor: Lsn) -> Self {
        Self { registered: Mutex::new(Registered { pins: BTreeMap::new(), horizon: None, floor }) }
    }

    /// Holds the versions that a reader at `at()` needs. The LSN is asked for under the lock that moves the floor.
    pub(crate) fn pin(&self, at: impl FnOnce() -> Lsn) -> Result<Lsn> {
        let mut registered = self.registered.lock();
        let lsn = at();
        if lsn < registered.floor {
            return Err(Error::SnapshotTooOld { requested: lsn, oldest: registered.floor });
        }
        *registered.pins.entry(lsn).or_default() += 1;
        Ok(lsn)
    }

    pub(crate) fn unpin(&self, lsn: Lsn) {
        let mut registered = self.registered.lock();
        if let Some(count) = registered.pins.get_mut(&lsn) {
            *count -= 1;
            if *count == 0 {
                registered.pins.remove(&lsn);
            }
        }
    }

    pub(crate) fn set_horizon(&self, horizon: Option<Lsn>) {
        self.registered.lock().horizon = horizon;
    }

    /// Raises the floor as far as readers allow, at most to `limit`, and gives it.
    pub(crate) fn raise_floor(&self, limit: impl FnOnce() -> Lsn) -> Lsn {
        let mut registered = self.registered.lock();
        registered.floor = registered.allowed(limit());
        registered.floor
    }

    /// To where [`raise_floor`](Self::raise_floor) would raise the floor now.
    pub(crate) fn could_raise_floor(&self, limit: Lsn) -> Lsn {
        self.registered.lock().allowed(limit)
    }

    pub(crate) fn floor(&self) -> Lsn {
        self.registered.lock().floor
    }

    pub(crate) fn pins(&self) -> usize {
        self.registered.lock().pins.values().sum()
    }
}
