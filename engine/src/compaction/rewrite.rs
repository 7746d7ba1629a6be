//! Carrying a merge out: its inputs are read in order, what survives is written into new tables. A merge may be cut by
//! keys into parts that run at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use seawall_wal::sync::atomic::{AtomicBool, Ordering};
use seawall_wal::sync::thread;
use seawall_wal::{ask_for_short_turns, has_short_turns};

use super::pace::STEP_BYTES;
use super::survival::{Outside, Survival};
use crate::blob::BlobPolicy;
use crate::error::{Error, Result};
use crate::file::FileHash;
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::merge::Versions;
use crate::mutant::{Mutant, planted};
use crate::range_deletes::{RangeDeletes, Removal};
use crate::table::{Content, EntryRef, Placement, Table, TableStore, TableWriter};

/// Versions between two looks at whether to stop.
const STEP: u64 = 1024;

/// A merge, ready to be carried out.
pub(super) struct Rewrite<'a> {
    pub(super) store: &'a TableStore,
    pub(super) keyspace: KeyspaceId,
    /// Inputs that overlap each other.
    pub(super) level0: Vec<Arc<Table>>,
    /// Inputs by level, which do not.
    pub(super) deeper: Vec<Vec<Arc<Table>>>,
    pub(super) floor: Moment,
    pub(super) outside: Outside,
    pub(super) placement: Placement,
    /// Bytes of one output, about.
    pub(super) table_bytes: u64,
    /// Which values outputs put into blob files.
    pub(super) policy: BlobPolicy,
    /// Blob files whose values are written again; references to others are copied.
    pub(super) stale: BTreeSet<FileHash>,
    /// Keys before which an output ends if it is half full.
    pub(super) seams: Vec<Vec<u8>>,
    /// Is told how many bytes were written since it was told last, and may take its time.
    pub(super) pace: &'a (dyn Fn(u64) + Sync),
    /// Set when the database closes.
    pub(super) stop: &'a AtomicBool,
}

/// What a part has written.
#[derive(Default)]
struct Written {
    tables: Vec<Arc<Table>>,
    /// Of tables and blob files.
    bytes: u64,
}

impl Rewrite<'_> {
    /// Writes the outputs, in order, a part for each stretch between `cuts`, and says how many bytes that took. They are
    /// named, but their names are not synced. If a part fails nothing is left.
    pub(super) fn run(&self, cuts: &[Vec<u8>]) -> Result<(Vec<Arc<Table>>, u64)> {
        let bounds = || std::iter::once(None).chain(cuts.iter().map(|cut| Some(cut.as_slice())));
        let ends = cuts.iter().map(|cut| Some(cut.as_slice())).chain([None]);
        let mut parts = bounds().zip(ends);
        let range_deletes = &self.range_deletes()?;
        // No other part should go on writing once one has failed.
        let failed = AtomicBool::new(false);
        let outcomes: Vec<_> = if cuts.is_empty() {
            parts.map(|(from, until)| self.part(range_deletes, from, until, &failed)).collect()
        } else {
            let short_turns = has_short_turns();
            thread::scope(|scope| {
                let failed = &failed;
                let (from, until) = parts.next().expect("there is a first part");
                let others: Vec<_> = parts
                    .map(|(from, until)| {
                        scope.spawn(move || {
                            if short_turns {
                                ask_for_short_turns();
                            }
                            self.part(range_deletes, from, until, failed)
                        })
                    })
                    .collect();
                let first = self.part(range_deletes, from, until, failed);
                let join = |part: thread::ScopedJoinHandle<'_, _>| {
                    part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                std::iter::once(first).chain(others.into_iter().map(join)).collect()
            })
        };
        let (mut tables, mut bytes) = (Vec::new(), 0);
        let mut errors = Vec::new();
        for (written, result) in outcomes {
            tables.extend(written.tables);
            bytes += written.bytes;
            errors.extend(result.err());
        }
        // A part that stopped because of another says so less well.
        errors.sort_by_key(|error| matches!(error, Error::Closed));
        match errors.into_iter().next() {
            None => Ok((tables, bytes)),
            Some(error) => {
                self.store.release(tables.iter().map(|table| table.meta().hash));
                Err(error)
            }
        }
    }

    /// The outputs of the keys in `from..until`, and how it went.
    fn part(
        &self,
        range_deletes: &RangeDeletes,
        from: Option<&[u8]>,
        until: Option<&[u8]>,
        failed: &AtomicBool,
    ) -> (Written, Result<()>) {
        let mut written = Written::default();
        let result = self.write(range_deletes, from, until, failed, &mut written);
        if result.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        (written, result)
    }

    fn write(
        &self,
        range_deletes: &RangeDeletes,
        from: Option<&[u8]>,
        until: Option<&[u8]>,
        failed: &AtomicBool,
        written: &mut Written,
    ) -> Result<()> {
        let mut versions = Versions::of_tables(&self.level0, self.deeper.clone(), from)?;
        let mut survival = Survival::new(self.floor, self.outside, range_deletes);
        // Where the keys of the output being written begin, which is where those of the one before end.
        let mut begin = from.unwrap_or_default().to_vec();
        let mut writer: Option<TableWriter> = None;
        let mut seams = self.seams.iter().peekable();
        let mut count = 0_u64;
        // Of the output being written.
        let mut paced = 0;
        let mut keep = |entry: EntryRef<'_>| {
            let mut at_seam = false;
            while seams.next_if(|seam| seam.as_slice() <= entry.key).is_some() {
                at_seam = true;
            }
            let full = |writer: &TableWriter| {
                let size = writer.size();
                // All versions of a key stay in one table.
                (size >= self.table_bytes || at_seam && size >= self.table_bytes / 2) && writer.last_key() != entry.key
            };
            if let Some(finished) = writer.take_if(|writer| full(writer)) {
                let began = std::mem::replace(&mut begin, entry.key.to_vec());
                self.finish(finished, range_deletes, &began, Some(entry.key), written)?;
                paced = 0;
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(self.writer()?),
            };
            let content = match entry.content {
                Content::Large(large) if self.stale.contains(&large.file.meta().hash) => large.read()?,
                content => content,
            };
            writer.push(EntryRef { content, ..entry })?;
            if writer.written() >= paced + STEP_BYTES {
                (self.pace)(writer.written() - paced);
                paced = writer.written();
            }
            Ok(())
        };
        loop {
            let step = versions.next(|entry| match until.is_some_and(|until| entry.key >= until) {
                true => Ok(false),
                false => survival.take(entry, &mut keep).map(|()| true),
            })?;
            if step != Some(true) {
                break;
            }
            count += 1;
            if count.is_multiple_of(STEP) && (self.stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed)) {
                return Err(Error::Closed);
            }
        }
        survival.finish(&mut keep)?;
        let has_rest = !self.left_between(range_deletes, &begin, until).is_empty();
        if writer.is_none() && has_rest {
            writer = Some(self.writer()?);
        }
        if let Some(writer) = writer {
            self.finish(writer, range_deletes, &begin, until, written)?;
        }
        Ok(())
    }

    /// Ends an output that is responsible for the keys in `begin..end`: also for those that are not there, because what is
    /// deleted there may be on deeper levels.
    fn finish(
        &self,
        mut writer: TableWriter,
        range_deletes: &RangeDeletes,
        begin: &[u8],
        end: Option<&[u8]>,
        written: &mut Written,
    ) -> Result<()> {
        let (begin, end) = match planted(Mutant::RangeDeletesCutToKeys) {
            true => (writer.first_key().to_vec(), Some(writer.last_key().to_vec())),
            false => (begin.to_vec(), end.map(<[u8]>::to_vec)),
        };
        for Removal { start, end, lsn } in self.left_between(range_deletes, &begin, end.as_deref()) {
            writer.push_range_delete(&start, &end, lsn);
        }
        let finished = writer.finish()?;
        written.bytes += finished.bytes();
        written.tables.push(self.store.adopt(finished)?);
        Ok(())
    }

    fn writer(&self) -> Result<TableWriter> {
        self.store.writer(self.keyspace, self.placement, self.policy)
    }

    fn left_between(&self, range_deletes: &RangeDeletes, from: &[u8], until: Option<&[u8]>) -> Vec<Removal> {
        let bottom = !self.outside.older || planted(Mutant::RangeDeletesDroppedAboveTheBottom);
        range_deletes.between(from, until, self.floor.lsn, bottom)
    }

    /// Those of all inputs.
    fn range_deletes(&self) -> Result<RangeDeletes> {
        let mut all = Vec::new();
        for table in self.level0.iter().chain(self.deeper.iter().flatten()) {
            all.extend(
                table.range_deletes()?.iter().map(|delete| Removal::new(&delete.start, &delete.end, delete.lsn)),
            );
        }
        Ok(RangeDeletes::new(all))
    }
}
