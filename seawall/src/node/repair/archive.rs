//! The archive as another copy of what is damaged. It is opened when it is first asked, so that peers help without it; and
//! an archive that has nothing that helps is told from one that does not answer now.

use std::sync::{Arc, OnceLock};

use seawall_backup::{Archive, ArchiveSource, ArchiveTables, Error as ArchiveError};
use seawall_engine::{FileHash, TableSource};
use seawall_wal::{ClusterId, Error as LogError, LogBytes, Lsn, Result, SegmentSource, TimelineHistory, TimelineId};

use crate::node::Inner;
use crate::node::archive::ARCHIVE_PATIENCE;
use crate::node::error::Error;
use crate::node::primary::is_final;

/// The archive of a node that repairs itself. Blocks.
pub(super) struct ArchiveCopy {
    inner: Arc<Inner>,
    cluster: ClusterId,
    name: String,
    opened: OnceLock<Opened>,
}

struct Opened {
    archive: Archive,
    log: ArchiveSource,
    tables: ArchiveTables,
}

impl std::fmt::Debug for ArchiveCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl ArchiveCopy {
    pub(super) fn new(inner: Arc<Inner>, cluster: ClusterId) -> Self {
        Self { inner, cluster, name: String::from("the archive"), opened: OnceLock::new() }
    }

    fn open(&self, at: Lsn) -> Result<&Opened> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let archive = match self.wait(self.inner.open_archive_to_read(self.cluster)) {
            Some(Ok(archive)) => archive,
            Some(Err(error)) if answers(&error) => return Err(self.cannot(at, error.to_string())),
            Some(Err(error)) => return Err(self.silent(at, error.to_string())),
            None => return Err(self.silent(at, said_nothing())),
        };
        let runtime = || self.inner.runtime.clone();
        let (log, tables) =
            (ArchiveSource::new(archive.clone(), runtime()), ArchiveTables::new(archive.clone(), runtime()));
        Ok(self.opened.get_or_init(|| Opened { archive, log, tables }))
    }

    /// After a failure: why there is no answer any more; `None` if there still is one, which the failure then was.
    fn silence(&self, opened: &Opened, at: Lsn) -> Option<LogError> {
        match self.wait(opened.archive.newest_history()) {
            Some(Err(ArchiveError::Repository(why))) => Some(self.silent(at, why.to_string())),
            None => Some(self.silent(at, said_nothing())),
            Some(_) => None,
        }
    }

    fn ask<T>(&self, at: Lsn, ask: impl FnOnce(&Opened) -> Result<T>) -> Result<T> {
        let opened = self.open(at)?;
        ask(opened).map_err(|error| self.silence(opened, at).unwrap_or(error))
    }

    fn wait<T>(&self, asked: impl Future<Output = T>) -> Option<T> {
        self.inner.runtime.block_on(async { tokio::time::timeout(ARCHIVE_PATIENCE, asked).await.ok() })
    }

    fn cannot(&self, at: Lsn, why: String) -> LogError {
        LogError::Source { source_name: self.name.clone(), at, why }
    }

    fn silent(&self, at: Lsn, why: String) -> LogError {
        LogError::SourceSilent { source_name: self.name.clone(), at, why }
    }
}

/// Whether an archive that could not be opened said why.
fn answers(error: &Error) -> bool {
    is_final(error) || matches!(error, Error::Archive(ArchiveError::NoArchive { .. }))
}

fn said_nothing() -> String {
    format!("it said nothing for {ARCHIVE_PATIENCE:?}")
}

impl SegmentSource for ArchiveCopy {
    fn name(&self) -> &str {
        &self.name
    }

    fn coverage(&self, timeline: TimelineId) -> Result<Option<(Lsn, Lsn)>> {
        self.ask(Lsn::ZERO, |opened| opened.log.coverage(timeline))
    }

    fn fetch(&self, timeline: TimelineId, from: Lsn) -> Result<Option<LogBytes>> {
        self.ask(from, |opened| opened.log.fetch(timeline, from))
    }

    fn history(&self) -> Result<Option<TimelineHistory>> {
        self.ask(Lsn::ZERO, |opened| opened.log.history())
    }
}

impl TableSource for ArchiveCopy {
    fn fetch(&self, hash: &FileHash, size: u64) -> seawall_engine::Result<Vec<u8>> {
        let opened = self.open(Lsn::ZERO)?;
        opened.tables.fetch(hash, size).map_err(|error| match self.silence(opened, Lsn::ZERO) {
            Some(silence) => silence.into(),
            None => error,
        })
    }
}
