//! Is everything there, and is it what it says? Structure asks for heads only: every file of every backup, and the log
//! without a hole from each backup on. Content reads every object and checks every digest.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use seawall_wal::{Lsn, TimelineHistory, TimelineId, Timestamp};

use crate::archive::Archive;
use crate::error::{Error, Result};
use crate::files::in_parallel;
use crate::format::chunk::ChunkAbout;
use crate::format::documents::{BackupManifest, FileEntry};
use crate::format::keys::{self, BackupId};
use crate::log_index::ChunkList;
use crate::progress::Progress;

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyDepth {
    /// Everything is there, the log has no holes, and its chunks have the sizes they say they have.
    Structure,
    /// And every object's contents match its digest.
    Content,
}

/// How a verification is carried out.
#[derive(Clone)]
pub struct VerifyOptions {
    /// How far to look.
    pub depth: VerifyDepth,
    /// Requests on their way at once.
    pub at_once: usize,
    /// Told of objects as they are checked.
    pub progress: Progress<VerifyProgress>,
}

impl VerifyOptions {
    /// Eight requests at once, no progress.
    pub fn new(depth: VerifyDepth) -> Self {
        VerifyOptions { depth, at_once: 8, progress: None }
    }
}

impl std::fmt::Debug for VerifyOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyOptions")
            .field("depth", &self.depth)
            .field("at_once", &self.at_once)
            .finish_non_exhaustive()
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Chunks and files there are.
    pub items: usize,
    /// Those that were checked.
    pub items_done: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Every backup, oldest first.
    pub backups: Vec<BackupCheck>,
    /// The log that can be restored to, by timeline.
    pub log: Vec<LogCheck>,
    /// Everything that is wrong with what no backup needs by itself.
    pub problems: Vec<Error>,
    /// Files looked at, each once.
    pub files: usize,
    /// Chunks looked at.
    pub chunks: usize,
    /// Bytes of contents whose digest was checked.
    pub bytes_read: u64,
    /// How long it took.
    pub took: Duration,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.backups.iter().all(|backup| backup.problems.is_empty())
    }

    /// Whether at least one backup can be restored to the end of the archive.
    pub fn newest_is_restorable(&self) -> bool {
        self.backups.last().is_some_and(|backup| backup.problems.is_empty())
    }
}

/// What was found about one backup.
#[derive(Debug)]
pub struct BackupCheck {
    /// Which.
    pub id: BackupId,
    /// Its manifest, if it can be read.
    pub manifest: Option<BackupManifest>,
    /// Up to where the log goes on without a hole from here; targets between its stop and here can be restored.
    pub restorable_to: Option<(Lsn, Timestamp)>,
    /// What is wrong with it.
    pub problems: Vec<Error>,
}

/// A stretch of archived log without holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogCheck {
    /// Of which timeline.
    pub timeline: TimelineId,
    /// The first byte.
    pub from: Lsn,
    /// The end of the last record.
    pub to: Lsn,
    /// The time of the last record.
    pub last_time: Timestamp,
    /// Chunks in it.
    pub chunks: usize,
    /// Whether a fence ends it.
    pub fenced: bool,
}

impl Archive {
    /// Looks at everything a restore could need. Damage is in the report; only a store that does not answer is an error.
    pub async fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport> {
        let started = Instant::now();
        let mut report = VerifyReport::default();
        let mut walk = LogWalk::default();
        for (id, manifest) in self.backups().await? {
            let mut check = BackupCheck { id, manifest: None, restorable_to: None, problems: vec![] };
            match manifest {
                Ok(manifest) => {
                    self.check_coverage(&manifest, &mut check, &mut walk).await?;
                    check.manifest = Some(manifest);
                }
                Err(error) => check.problems.push(damage(error)?),
            }
            report.backups.push(check);
        }
        report.log = walk.stretches;
        report.chunks = walk.chunks.len();
        let files: BTreeMap<[u8; 32], FileEntry> = report
            .backups
            .iter()
            .filter_map(|backup| backup.manifest.as_ref())
            .flat_map(|manifest| manifest.files().map(|file| (*file.hash.as_bytes(), *file)))
            .collect();
        report.files = files.len();
        let mut progress = VerifyProgress { items: report.files, items_done: 0 };
        if options.depth == VerifyDepth::Content {
            progress.items += walk.chunks.len();
        }
        self.check_files(files.into_values(), options, &mut progress, &mut report).await?;
        if options.depth == VerifyDepth::Content {
            self.check_chunks(walk.chunks, options, &mut progress, &mut report).await?;
        }
        report.took = started.elapsed();
        Ok(report)
    }

    /// Follows the log from a backup on, along the newest history it leads to.
    async fn check_coverage(
        &self,
        manifest: &BackupManifest,
        check: &mut BackupCheck,
        walk: &mut LogWalk,
    ) -> Result<()> {
        let history = match self.newest_history().await {
            Ok(Some(newest)) if leads_on(manifest, &newest) => newest,
            Ok(_) => manifest.history.clone(),
            Err(error) => {
                check.problems.push(damage(error)?);
                manifest.history.clone()
            }
        };
        let mut position = manifest.log_start;
        let mut last_time = manifest.redo_time;
        loop {
            let from = history.next_byte(position.lsn);
            let entry =
                *history.entries().iter().rev().find(|entry| entry.begin <= from).expect("the first begins at 0");
            let end = history.end_of(entry.id);
            let (list, damaged) = match self.chunk_list(entry.id, from, end, None).await {
                Ok(list) => (list, None),
                Err(error) => {
                    let (list, error) = self.list_before(entry.id, from, damage(error)?).await?;
                    (list, Some(error))
                }
            };
            let gap = |from| Error::Gap { timeline: entry.id, from };
            let mut broken = None;
            for chunk in &list.chunks {
                if chunk.nonce != entry.nonce || chunk.chain_before != position.chain {
                    broken = Some(gap(chunk.start));
                    break;
                }
                (position, last_time) = (chunk.end_position(), chunk.last_time);
            }
            walk.add(&list.chunks, list.fence.is_some());
            broken = broken.or(damaged);
            if broken.is_none() && end == Lsn::MAX && list.fence.is_none() {
                match self.lost_beyond(entry.id, history.next_byte(position.lsn)).await {
                    Ok(true) => broken = Some(gap(position.lsn)),
                    Ok(false) => {}
                    Err(error) => broken = Some(damage(error)?),
                }
            }
            if let Some(broken) = broken {
                check.problems.push(broken);
                break;
            }
            if end == Lsn::MAX {
                break;
            }
            if position.lsn < end {
                check.problems.push(gap(position.lsn));
                break;
            }
            let next = history.entries().iter().find(|next| next.fork.lsn == end).expect("an end is a fork");
            position = next.fork;
        }
        if position.lsn < manifest.stop {
            if check.problems.is_empty() {
                let timeline = history.of_position(position.lsn).id;
                check.problems.push(Error::Gap { timeline, from: position.lsn });
            }
        } else {
            check.restorable_to = Some((position.lsn, last_time));
        }
        Ok(())
    }

    /// The log from `from` to the chunk that `error` says is damaged, if it is one behind; and the error.
    async fn list_before(&self, timeline: TimelineId, from: Lsn, error: Error) -> Result<(ChunkList, Error)> {
        let start = match &error {
            Error::Object { key, .. } => keys::chunk_start(timeline, key).filter(|start| *start > from),
            _ => None,
        };
        let Some(start) = start else { return Ok((ChunkList::default(), error)) };
        match self.chunk_list(timeline, from, start, None).await {
            Ok(list) => Ok((list, error)),
            Err(earlier) => Ok((ChunkList::default(), damage(earlier)?)),
        }
    }

    async fn check_files(
        &self,
        files: impl Iterator<Item = FileEntry>,
        options: &VerifyOptions,
        progress: &mut VerifyProgress,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let depth = options.depth;
        let mut failed: BTreeMap<[u8; 32], Error> = BTreeMap::new();
        let mut bytes_read = 0;
        let look = |file: FileEntry| {
            let archive = self.clone();
            async move {
                let looked = match depth {
                    VerifyDepth::Structure => match archive.has_file(&file).await {
                        Ok(true) => Ok(0),
                        Ok(false) => Err(archive.missing(&file)),
                        Err(error) => Err(error),
                    },
                    VerifyDepth::Content => match archive.check_file(&file).await {
                        Err(Error::Repository(error)) if error.is_not_found() => Err(archive.missing(&file)),
                        looked => looked,
                    },
                };
                match looked {
                    Ok(bytes) => Ok((file, Ok(bytes))),
                    Err(error) => Ok((file, Err(damage(error)?))),
                }
            }
        };
        in_parallel(files, options.at_once, look, |(file, looked): (FileEntry, Result<u64>)| {
            match looked {
                Ok(bytes) => bytes_read += bytes,
                Err(error) => {
                    failed.insert(*file.hash.as_bytes(), error);
                }
            }
            tell(options, progress);
        })
        .await?;
        report.bytes_read += bytes_read;
        for backup in &mut report.backups {
            let files = backup.manifest.iter().flat_map(BackupManifest::files);
            let bad: BTreeSet<_> =
                files.map(|file| *file.hash.as_bytes()).filter(|hash| failed.contains_key(hash)).collect();
            for hash in bad {
                // The same words for every backup that needs the file.
                backup.problems.push(again(&failed[&hash]));
                backup.restorable_to = None;
            }
        }
        Ok(())
    }

    async fn check_chunks(
        &self,
        chunks: Vec<ChunkAbout>,
        options: &VerifyOptions,
        progress: &mut VerifyProgress,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let look = |about: ChunkAbout| {
            let archive = self.clone();
            async move {
                match archive.chunk(about.timeline, about.start).await {
                    Ok(Some(found)) if *found.about() == about => Ok(Ok(about.end.distance_from(about.start))),
                    Ok(_) => Ok(Err((about, Error::Gap { timeline: about.timeline, from: about.start }))),
                    Err(error) => Ok(Err((about, damage(error)?))),
                }
            }
        };
        let mut bad: Vec<(ChunkAbout, Error)> = Vec::new();
        let mut bytes_read = 0;
        in_parallel(chunks, options.at_once, look, |looked| {
            match looked {
                Ok(bytes) => bytes_read += bytes,
                Err(found) => bad.push(found),
            }
            tell(options, progress);
        })
        .await?;
        report.bytes_read += bytes_read;
        for (about, error) in bad {
            for backup in &mut report.backups {
                let Some(manifest) = &backup.manifest else { continue };
                // A backup whose own log is damaged cannot be restored; others only not beyond it.
                if about.end <= manifest.log_start.lsn {
                    continue;
                }
                backup.restorable_to = match backup.restorable_to {
                    Some((to, _)) if about.start >= to => backup.restorable_to,
                    _ if about.start >= manifest.stop => Some((about.start, about.first_time)),
                    _ => None,
                };
                backup.problems.push(again(&error));
            }
            report.problems.push(error);
        }
        Ok(())
    }

    fn missing(&self, file: &FileEntry) -> Error {
        let key = crate::format::keys::piece(&file.hash, crate::files::piece_count(file.size) - 1);
        self.damaged(&key, crate::format::ObjectDamage::Missing)
    }
}

/// Chunks seen, each once, however many backups reach them.
#[derive(Default)]
struct LogWalk {
    seen: HashSet<(TimelineId, Lsn)>,
    chunks: Vec<ChunkAbout>,
    stretches: Vec<LogCheck>,
}

impl LogWalk {
    fn add(&mut self, list: &[ChunkAbout], fenced: bool) {
        for chunk in list {
            if self.seen.insert((chunk.timeline, chunk.start)) {
                self.chunks.push(*chunk);
            }
        }
        let (Some(first), Some(last)) = (list.first(), list.last()) else { return };
        let known = self
            .stretches
            .iter()
            .any(|stretch| stretch.timeline == first.timeline && stretch.from <= first.start && stretch.to >= last.end);
        if !known {
            self.stretches.push(LogCheck {
                timeline: first.timeline,
                from: first.start,
                to: last.end,
                last_time: last.last_time,
                chunks: list.len(),
                fenced,
            });
        }
    }
}

/// Errors that are findings; the rest are the store's and end the verification.
fn damage(error: Error) -> Result<Error> {
    match error {
        Error::Object { .. } | Error::Gap { .. } => Ok(error),
        Error::Repository(error) if !error.is_transient() && error.is_not_found() => Ok(Error::Repository(error)),
        Error::Repository(error)
            if matches!(
                error.kind,
                crate::repository::RepositoryErrorKind::TooLarge { .. }
                    | crate::repository::RepositoryErrorKind::RangeOutside { .. }
                    | crate::repository::RepositoryErrorKind::Damaged { .. }
            ) =>
        {
            Ok(Error::Repository(error))
        }
        error => Err(error),
    }
}

/// The same finding once more.
fn again(error: &Error) -> Error {
    match error {
        Error::Object { repository, key, damage } => {
            Error::Object { repository: repository.clone(), key: key.clone(), damage: damage.clone() }
        }
        Error::Gap { timeline, from } => Error::Gap { timeline: *timeline, from: *from },
        Error::Repository(error) => Error::Repository(error.clone()),
        other => Error::Ended { why: other.to_string() },
    }
}

fn tell(options: &VerifyOptions, progress: &mut VerifyProgress) {
    progress.items_done += 1;
    if let Some(tell) = &options.progress {
        tell(progress);
    }
}

/// Whether the newest history goes through this backup.
fn leads_on(manifest: &BackupManifest, newest: &TimelineHistory) -> bool {
    manifest.history.common_end(newest).is_some_and(|end| manifest.stop <= end)
}
