//! The plan of a restore: which backup, which chunks, and exactly where it ends. Only heads of objects are read for it,
//! and the one chunk in which a target lies.

use seawall_wal::{Lsn, TimelineHistory, TimelineId, Timestamp};

use super::described;
use super::target::RestoreTarget;
use crate::archive::Archive;
use crate::error::{Error, Result, written};
use crate::format::chunk::{ChunkAbout, ChunkObject};
use crate::format::documents::BackupManifest;
use crate::log_index::ChunkList;

/// Everything a restore will do, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// As asked for.
    pub asked: RestoreTarget,
    /// The end of the last record that will be there. `backup.stop <= target`.
    pub target: Lsn,
    /// The time of that record.
    pub target_time: Timestamp,
    /// The timelines the restored copy will have gone through; the last one holds the target.
    pub history: TimelineHistory,
    /// The base backup it begins with.
    pub backup: BackupManifest,
    /// The chunks of log to fetch, in order.
    pub chunks: Vec<ChunkAbout>,
    /// Bytes of all files of the backup.
    pub table_bytes: u64,
    /// Bytes of log, uncompressed.
    pub log_bytes: u64,
}

impl RestorePlan {
    /// Objects to fetch.
    pub fn objects(&self) -> u64 {
        let pieces: u64 = self.backup.files().map(|file| u64::from(crate::files::piece_count(file.size))).sum();
        pieces + self.chunks.len() as u64
    }
}

impl Archive {
    /// Resolves a target on the newest timeline's history, or on that of `timeline`.
    ///
    /// # Errors
    /// [`Error::NoBackup`], [`Error::OutsideArchive`], [`Error::Gap`], [`Error::UnknownBackup`], and the store's.
    pub async fn plan_restore(&self, asked: &RestoreTarget, timeline: Option<TimelineId>) -> Result<RestorePlan> {
        let no_backup = || Error::NoBackup { repository: self.location().to_owned() };
        let whole = match timeline {
            None => self.newest_history().await?,
            Some(timeline) => self.timeline(timeline).await?.map(|document| document.history),
        };
        let whole = whole.ok_or_else(no_backup)?;
        let whole = match asked {
            // A backup's own history is the one that leads to it, whatever came after.
            RestoreTarget::Backup(id) => self.backup(id).await?.history,
            _ => whole,
        };
        let backup = self.choose(asked, &whole).await?;
        let log = self.log_until(asked, &whole, &backup).await?;
        let (target, target_time) = self.resolve(asked, &whole, &backup, &log).await?;
        let chunks: Vec<ChunkAbout> = log.into_iter().filter(|chunk| chunk.start < target).collect();
        let last = whole.of_position(target).id;
        let until = whole.entries().iter().position(|entry| entry.id == last).expect("it is one of them");
        let history = TimelineHistory::from_entries(whole.entries()[..=until].to_vec(), self.cluster().segment_size)
            .expect("the beginning of a history is a history");
        Ok(RestorePlan {
            asked: asked.clone(),
            target,
            target_time,
            history,
            table_bytes: backup.bytes(),
            log_bytes: chunks.iter().map(|chunk| chunk.end.distance_from(chunk.start)).sum(),
            backup,
            chunks,
        })
    }

    /// The newest backup of this history that is not beyond the target.
    async fn choose(&self, asked: &RestoreTarget, history: &TimelineHistory) -> Result<BackupManifest> {
        if let RestoreTarget::Backup(id) = asked {
            return self.backup(id).await;
        }
        let mut earliest = None;
        let mut unreadable = None;
        for id in self.backup_ids().await?.into_iter().rev() {
            let manifest = match self.backup(&id).await {
                Ok(manifest) => manifest,
                Err(error @ Error::Object { .. }) => {
                    tracing::error!(%error, "a backup is passed over");
                    unreadable.get_or_insert(error);
                    continue;
                }
                Err(Error::UnknownBackup { .. }) => continue,
                Err(error) => return Err(error),
            };
            if !leads_to(&manifest, history) {
                continue;
            }
            let reaches = match asked {
                RestoreTarget::Lsn(lsn) => manifest.stop <= *lsn,
                RestoreTarget::Time(time) => manifest.redo_time <= *time,
                RestoreTarget::Latest | RestoreTarget::Backup(_) => true,
            };
            if reaches {
                return Ok(manifest);
            }
            earliest = Some(manifest);
        }
        match (earliest, unreadable) {
            (Some(earliest), _) => {
                let (end, time) = self.latest(history).await?;
                let first = described(earliest.stop, earliest.redo_time);
                Err(Error::OutsideArchive { target: asked.to_string(), first, last: described(end, time) })
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::NoBackup { repository: self.location().to_owned() }),
        }
    }

    /// The chunks from the backup's log start on, at least up to the target; without a hole.
    async fn log_until(
        &self,
        asked: &RestoreTarget,
        history: &TimelineHistory,
        backup: &BackupManifest,
    ) -> Result<Vec<ChunkAbout>> {
        let (to, until) = match asked {
            RestoreTarget::Latest => (Lsn::MAX, None),
            RestoreTarget::Lsn(lsn) => (*lsn, None),
            RestoreTarget::Time(time) => (Lsn::MAX, Some(*time)),
            RestoreTarget::Backup(_) => (backup.stop, None),
        };
        let mut chunks: Vec<ChunkAbout> = Vec::new();
        let mut position = backup.log_start;
        loop {
            let from = history.next_byte(position.lsn);
            if from >= to {
                return Ok(chunks);
            }
            let entry =
                history.entries().iter().rev().find(|entry| entry.begin <= from).expect("the first begins at 0");
            let end = history.end_of(entry.id);
            let ChunkList { chunks: found, goes_on, fence } =
                self.chunk_list(entry.id, from, to.min(end), until).await?;
            for chunk in &found {
                if chunk.nonce != entry.nonce || chunk.chain_before != position.chain {
                    return Err(Error::Gap { timeline: entry.id, from: chunk.start });
                }
                position = chunk.end_position();
            }
            chunks.extend(&found);
            let beyond = chunks.last().is_some_and(|chunk| chunk.end > end);
            let is_last = end == Lsn::MAX;
            match () {
                () if goes_on || position.lsn >= to => return Ok(chunks),
                // On to the next timeline, whose first record follows the fork.
                () if !is_last && (position.lsn == end || beyond) => {
                    let next = history.entries().iter().find(|next| next.fork.lsn == end).expect("an end is a fork");
                    if !beyond && position.chain != next.fork.chain {
                        return Err(Error::Gap { timeline: entry.id, from: end });
                    }
                    position = next.fork;
                }
                () if !is_last => return Err(Error::Gap { timeline: entry.id, from: position.lsn }),
                () => {
                    // Nothing shorter than what was archived is restored silently.
                    if fence.is_none() && self.lost_beyond(entry.id, history.next_byte(position.lsn)).await? {
                        return Err(Error::Gap { timeline: entry.id, from: position.lsn });
                    }
                    return self.enough(asked, history, backup, chunks, position.lsn).await;
                }
            }
        }
    }

    /// Whether log that ends where the archive does satisfies the target.
    async fn enough(
        &self,
        asked: &RestoreTarget,
        history: &TimelineHistory,
        backup: &BackupManifest,
        chunks: Vec<ChunkAbout>,
        end: Lsn,
    ) -> Result<Vec<ChunkAbout>> {
        let timeline = history.current().id;
        if end < backup.stop {
            return Err(Error::Gap { timeline, from: end });
        }
        let last_time = chunks.last().map_or(backup.redo_time, |chunk| chunk.last_time);
        let asserted = self.frontier(timeline).await?.map_or(last_time, |frontier| frontier.asserted.max(last_time));
        let outside = match asked {
            RestoreTarget::Latest | RestoreTarget::Backup(_) => false,
            RestoreTarget::Lsn(lsn) => *lsn > end,
            RestoreTarget::Time(time) => *time > asserted,
        };
        if outside {
            let first = described(backup.stop, backup.redo_time);
            let last = format!("{end} ({})", written(asserted));
            return Err(Error::OutsideArchive { target: asked.to_string(), first, last });
        }
        Ok(chunks)
    }

    /// The last record at or before the target, and its time.
    async fn resolve(
        &self,
        asked: &RestoreTarget,
        history: &TimelineHistory,
        backup: &BackupManifest,
        chunks: &[ChunkAbout],
    ) -> Result<(Lsn, Timestamp)> {
        let wanted = |lsn: Lsn, time: Timestamp| match asked {
            RestoreTarget::Latest => true,
            RestoreTarget::Lsn(target) => lsn <= *target,
            RestoreTarget::Time(target) => time <= *target,
            RestoreTarget::Backup(_) => lsn <= backup.stop,
        };
        let base = (backup.stop, backup.redo_time);
        // The newest chunk with a record that is wanted; nearly always the last or the one before.
        for about in chunks.iter().rev().filter(|about| about.end > backup.stop) {
            let end = history.end_of(about.timeline);
            if about.end <= end && wanted(about.end, about.last_time) {
                return Ok((about.end, about.last_time));
            }
            let Some(ChunkObject::Chunk(chunk)) = self.chunk(about.timeline, about.start).await? else {
                return Err(Error::Gap { timeline: about.timeline, from: about.start });
            };
            let mut last = None;
            chunk.for_each_record(|record| {
                if record.lsn <= end && wanted(record.lsn, record.header.time) {
                    last = Some((record.lsn, record.header.time));
                }
            });
            if let Some(last) = last {
                return Ok(if last.0 > base.0 { last } else { base });
            }
        }
        Ok(base)
    }

    /// Where a history's archived log ends now, for messages.
    async fn latest(&self, history: &TimelineHistory) -> Result<(Lsn, Timestamp)> {
        for entry in history.entries().iter().rev() {
            if let Some(frontier) = self.frontier(entry.id).await? {
                return Ok((frontier.position.lsn.min(history.end_of(entry.id)), frontier.asserted));
            }
        }
        Ok((Lsn::ZERO, Timestamp(0)))
    }
}

/// Whether a backup's node was on this history when it was made.
fn leads_to(manifest: &BackupManifest, history: &TimelineHistory) -> bool {
    manifest.history.common_end(history).is_some_and(|end| manifest.stop <= end)
}
