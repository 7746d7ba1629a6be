//! What the drivers need from the node they run in: its log, and for a standby ways to write, flush and apply. The engine's
//! [`Db`] is both.

use std::fmt;
use std::sync::Arc;

use seawall_engine::Db;
use seawall_wal::storage::IoPath as StorageIoPath;
use seawall_wal::{LogBytes, Lsn, Position, TimelineHistory};

use crate::error::{Error, Result};
use crate::feed::BackupOffer;
use crate::message::{IoPath, Positions};
use crate::receiver::LocalFacts;

/// Where a standby's log and state live. All methods block; writes come from one thread, flushes from another, applies
/// from a third.
pub trait StandbyTarget: Send + Sync + 'static {
    /// The end of the log.
    fn position(&self) -> Position;
    /// How far it is on disk and applied.
    fn positions(&self) -> Positions;
    /// The timelines it has gone through.
    fn history(&self) -> TimelineHistory;
    /// Checks and writes log, and applies it.
    fn write(&self, log: &LogBytes) -> Result<Position>;
    /// Checks and writes log; [`apply`](Self::apply) comes later.
    fn write_unapplied(&self, log: &LogBytes) -> Result<Position>;
    /// Makes what was written durable.
    fn flush(&self) -> Result<Lsn>;
    /// Applies what was written unapplied and flushed, up to `to`; says how far everything is applied.
    fn apply(&self, to: Lsn) -> Result<Lsn>;
    /// How far everything is applied, flushed or not.
    fn applied(&self) -> Lsn;
    /// Takes over a history that continues its own.
    fn follow(&self, history: &TimelineHistory) -> Result<()>;
    /// What it tells its upstream.
    fn facts(&self) -> LocalFacts;
    /// Where writes go; empty if unknown.
    fn set_primary(&self, address: &str);
}

/// Base backups a standby can be rebuilt from. Blocking.
pub trait BaseBackups: Send + Sync + fmt::Debug + 'static {
    /// Those on the cluster's history, in any order.
    fn offers(&self) -> Result<Vec<BackupOffer>>;
    /// Replaces the node's data by this backup; its log then ends at the backup's redo position or beyond. The node's old data are
    /// closed before and replaced only once the new ones are whole. Gives what to go on with.
    fn install(&self, offer: &BackupOffer) -> Result<Arc<dyn StandbyTarget>>;
}

impl StandbyTarget for Db {
    fn position(&self) -> Position {
        self.log().end()
    }

    fn positions(&self) -> Positions {
        let flush = self.log().flushed().value();
        Positions { write: self.log().end().lsn.max(flush), flush, replay: self.visible().min(flush) }
    }

    fn history(&self) -> TimelineHistory {
        Db::history(self)
    }

    fn write(&self, log: &LogBytes) -> Result<Position> {
        self.receive(log).map_err(|error| target("write received log", &error))
    }

    fn write_unapplied(&self, log: &LogBytes) -> Result<Position> {
        self.receive_unapplied(log).map_err(|error| target("write received log", &error))
    }

    fn flush(&self) -> Result<Lsn> {
        self.flush_received().map_err(|error| target("flush received log", &error))
    }

    fn apply(&self, to: Lsn) -> Result<Lsn> {
        self.apply_received(to).map_err(|error| target("apply received log", &error))
    }

    fn applied(&self) -> Lsn {
        Db::applied(self).0.lsn
    }

    fn follow(&self, history: &TimelineHistory) -> Result<()> {
        self.follow_history(history).map_err(|error| target("follow the upstream's history", &error))
    }

    fn facts(&self) -> LocalFacts {
        let stats = self.stats();
        let io_path = match stats.io_path {
            StorageIoPath::Uring => IoPath::IoUring,
            StorageIoPath::Posix => IoPath::Posix,
            StorageIoPath::Memory => IoPath::Unknown,
        };
        // A database in memory has no file system to ask.
        let disk_free = rustix::fs::statvfs(self.path()).ok().map(|disk| disk.f_bavail * disk.f_frsize);
        LocalFacts { disk_free, apply_rate: 0, corruption: self.poisoned().is_some(), io_path }
    }

    fn set_primary(&self, address: &str) {
        Db::set_primary(self, (!address.is_empty()).then(|| address.to_owned()));
    }
}

fn target(operation: &'static str, error: &seawall_engine::Error) -> Error {
    Error::Target { operation, why: error.to_string() }
}
