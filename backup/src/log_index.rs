//! Which chunks hold which log: the end of a timeline's list, the chunk that holds a byte, the list between two bytes.
//! Listings only make it faster; what counts is the list by name, each chunk's key being the previous one's end.

use std::collections::{BTreeSet, HashMap};

use seawall_wal::{Lsn, TimelineId, Timestamp};

use crate::archive::Archive;
use crate::error::{Error, Result};
use crate::files::in_parallel;
use crate::format::chunk::ChunkAbout;
use crate::format::keys;
use crate::repository::LIST_PAGE_MAX;

/// Heads asked for at once.
const HEADS_AT_ONCE: usize = 16;

/// What chunks and fences say of themselves, by their start; `true` for a fence.
type Heads = HashMap<Lsn, (ChunkAbout, bool)>;

/// A stretch of a timeline's list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkList {
    /// In order, each beginning where the previous one ends.
    pub chunks: Vec<ChunkAbout>,
    /// The fence behind them, if the list ends with one before the end asked for.
    pub fence: Option<ChunkAbout>,
    /// Whether a chunk follows that was left out because it is later than asked for.
    pub goes_on: bool,
}

impl Archive {
    /// The end of a timeline's list as the byte where the next chunk would begin, and the fence there, if any. `None` if
    /// nothing of the timeline is archived.
    pub async fn list_end(&self, timeline: TimelineId) -> Result<Option<(Lsn, Option<ChunkAbout>)>> {
        let Some(document) = self.timeline(timeline).await? else { return Ok(None) };
        let (mut at, mut known) = match self.frontier(timeline).await? {
            Some(frontier) if frontier.nonce == document.history.current().nonce => (frontier.position.lsn, true),
            _ => (document.history.current().begin, false),
        };
        loop {
            match self.chunk_head(timeline, at).await? {
                None if known => return Ok(Some((at, None))),
                None => return Ok(None),
                Some((fence, true)) => return Ok(Some((at, Some(fence)))),
                Some((chunk, false)) => (at, known) = (chunk.end, true),
            }
        }
    }

    /// The chunk of the list that holds the byte at `lsn`.
    pub async fn locate(&self, timeline: TimelineId, lsn: Lsn) -> Result<Option<ChunkAbout>> {
        if let Some((about, fence)) = self.chunk_head(timeline, lsn).await? {
            return Ok((!fence).then_some(about));
        }
        // A chunk never crosses a boundary, so the list has a key at each one: begin there, or where the list does.
        let size = self.cluster().segment_size;
        let boundary = size.start_of(size.segment_of(lsn));
        let listed = self.listed(timeline, boundary, lsn).await?;
        let (Some(&first), Some(&last)) = (listed.first(), listed.last()) else { return Ok(None) };
        let before_last = listed.iter().rev().nth(1);
        let holds = |about: &ChunkAbout| about.start <= lsn && lsn < about.end;
        // Usually the last one listed follows the one before it, and that settles it.
        if let (Some(before), Some((about, false))) = (before_last, self.chunk_head(timeline, last).await?)
            && holds(&about)
            && self.chunk_head(timeline, *before).await?.is_some_and(|(before, _)| before.end == last)
        {
            return Ok(Some(about));
        }
        let mut at = first;
        while let Some((about, false)) = self.chunk_head(timeline, at).await? {
            if holds(&about) {
                return Ok(Some(about));
            }
            if about.end > lsn {
                break;
            }
            at = about.end;
        }
        Ok(None)
    }

    /// The list from the chunk that holds the byte at `from` up to the one that holds the last byte before `to`, or to
    /// the first one that begins after `until`, or to the list's end. Empty if nothing holds `from`.
    pub async fn chunk_list(
        &self,
        timeline: TimelineId,
        from: Lsn,
        to: Lsn,
        until: Option<Timestamp>,
    ) -> Result<ChunkList> {
        let later = |chunk: &ChunkAbout| until.is_some_and(|until| chunk.first_time > until);
        let mut list = ChunkList::default();
        let Some(first) = self.locate(timeline, from).await? else {
            if let Some((fence, true)) = self.chunk_head(timeline, from).await? {
                list.fence = Some(fence);
            }
            return Ok(list);
        };
        if later(&first) {
            list.goes_on = true;
            return Ok(list);
        }
        let mut at = first.end;
        list.chunks.push(first);
        let mut window = BTreeSet::new();
        let mut heads = Heads::new();
        let mut exhausted = false;
        while at < to {
            if !window.contains(&at) && !exhausted {
                (window, exhausted) = self.page_from(timeline, at).await?;
                heads = self.heads(timeline, window.iter().copied().filter(|start| *start < to)).await?;
            }
            let head = match heads.remove(&at) {
                Some(head) => Some(head),
                // Not listed: the list may go on all the same.
                None => self.chunk_head(timeline, at).await?,
            };
            match head {
                None => break,
                Some((fence, true)) => {
                    list.fence = Some(fence);
                    break;
                }
                Some((chunk, false)) if later(&chunk) => {
                    list.goes_on = true;
                    break;
                }
                Some((chunk, false)) => {
                    at = chunk.end;
                    list.chunks.push(chunk);
                }
            }
        }
        Ok(list)
    }

    /// The first key of a timeline's chunks, as a position in the log.
    pub async fn list_start(&self, timeline: TimelineId) -> Result<Option<Lsn>> {
        let page = self.repository().list(&keys::chunks(timeline), None, 1).await?;
        Ok(page.objects.first().and_then(|object| keys::chunk_start(timeline, &object.key)))
    }

    /// Whether the log of a timeline once went on beyond `end`, where its list stops now: whether something beyond says
    /// that more had been archived. Uploads that were on their way when an archiver was lost do not.
    pub(crate) async fn lost_beyond(&self, timeline: TimelineId, end: Lsn) -> Result<bool> {
        if self.frontier(timeline).await?.is_some_and(|frontier| frontier.position.lsn > end) {
            return Ok(true);
        }
        let (page, _) = self.page_from(timeline, end).await?;
        let heads = self.heads(timeline, page.into_iter()).await?;
        Ok(heads.values().any(|(about, fence)| about.confirmed > end || (*fence && about.start > end)))
    }

    /// Listed starts from `from` to `to`, both included.
    async fn listed(&self, timeline: TimelineId, from: Lsn, to: Lsn) -> Result<Vec<Lsn>> {
        let mut found = Vec::new();
        let mut at = from;
        loop {
            let (page, exhausted) = self.page_from(timeline, at).await?;
            let last = page.last().copied();
            found.extend(page.into_iter().filter(|start| *start <= to));
            match last {
                Some(last) if !exhausted && last < to => at = last.advance(1),
                _ => return Ok(found),
            }
        }
    }

    /// A page of listed starts at or after `at`, and whether it is the last page.
    async fn page_from(&self, timeline: TimelineId, at: Lsn) -> Result<(BTreeSet<Lsn>, bool)> {
        let prefix = keys::chunks(timeline);
        let after = at.offset().checked_sub(1).map(|before| keys::chunk(timeline, Lsn::new(before)));
        let page = self.repository().list(&prefix, after.as_deref(), LIST_PAGE_MAX).await?;
        let starts = page.objects.iter().filter_map(|object| keys::chunk_start(timeline, &object.key));
        Ok((starts.collect(), !page.more))
    }

    async fn heads(&self, timeline: TimelineId, starts: impl Iterator<Item = Lsn>) -> Result<Heads> {
        let mut found = Heads::new();
        let ask = |start| {
            let archive = self.clone();
            async move {
                match archive.chunk_head(timeline, start).await {
                    Ok(head) => Ok(head.map(|head| (start, head))),
                    // What the list does not reach may be anything; if it is reached, it is asked for again.
                    Err(Error::Object { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        };
        in_parallel(starts, HEADS_AT_ONCE, ask, |head| found.extend(head)).await?;
        Ok(found)
    }
}

impl ChunkList {
    /// Up to where the log is there without a hole.
    pub fn end(&self) -> Option<Lsn> {
        self.chunks.last().map(|chunk| chunk.end)
    }

    /// Bytes of log.
    pub fn log_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.end.distance_from(chunk.start)).sum()
    }
}
