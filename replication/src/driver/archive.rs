//! The other feed: what the archive covers of a history, and fetching it. The next piece is fetched while one is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use seawall_wal::{LogBytes, Lsn, SegmentSource, TimelineHistory};

use super::flow::catch_up;
use super::target::StandbyTarget;
use crate::error::{Error, Result};
use crate::feed::Coverage;

/// Written log is flushed at least every so many bytes.
const FLUSH_BYTES: u64 = 16 << 20;
/// Pieces fetched ahead.
const AHEAD: usize = 2;

/// How far the archive has log that leads on from position `at` without a gap; `None` if it has nothing there.
pub(super) fn coverage(source: &dyn SegmentSource, history: &TimelineHistory, at: Lsn) -> Result<Option<Coverage>> {
    let mut found: Option<Coverage> = None;
    for entry in history.entries() {
        let end = history.end_of(entry.id);
        if end < at || (end == at && entry.id != history.current().id && found.is_none()) {
            continue;
        }
        let Some((from, to)) = source.coverage(entry.id)? else { break };
        let (from, to) = (from.max(entry.begin), to.min(end));
        found = match found {
            None => Some(Coverage { from: from.min(history.next_byte(from)), to }),
            // The stretch before must reach the fork for this one to continue it.
            Some(before) if from <= entry.begin => Some(Coverage { to: to.max(before.to), ..before }),
            Some(before) => return Ok(Some(before)),
        };
        if to < end {
            break;
        }
    }
    Ok(found)
}

/// Fetches from the archive until the target's log ends at `to` or the archive has no more, or `stop` is set. Blocks.
pub(super) fn fetch(
    source: &Arc<dyn SegmentSource>,
    target: &dyn StandbyTarget,
    to: Lsn,
    stop: &AtomicBool,
    fetched: &AtomicU64,
) -> Result<()> {
    catch_up(target)?;
    let history = target.history();
    let start = target.position().lsn;
    let result = std::thread::scope(|scope| {
        let (pieces, ready) = mpsc::sync_channel::<Result<LogBytes>>(AHEAD);
        scope.spawn(|| fetch_ahead(&**source, &history, start, to, stop, pieces));
        let mut unflushed = 0;
        for piece in ready {
            let piece = piece?;
            target.write(&piece)?;
            fetched.fetch_add(piece.bytes.len() as u64, Ordering::Relaxed);
            unflushed += piece.bytes.len() as u64;
            if unflushed >= FLUSH_BYTES {
                target.flush()?;
                unflushed = 0;
            }
        }
        Ok(())
    });
    // Also after an error: what was written is whole and may as well be kept.
    let flushed = target.flush().map(drop);
    result.and(flushed)
}

/// Fetches piece after piece until something says stop; the channel's end tells the writer.
fn fetch_ahead(
    source: &dyn SegmentSource,
    history: &TimelineHistory,
    mut at: Lsn,
    to: Lsn,
    stop: &AtomicBool,
    pieces: mpsc::SyncSender<Result<LogBytes>>,
) {
    while at < to && !stop.load(Ordering::Relaxed) {
        let from = history.next_byte(at);
        let timeline =
            history.entries().iter().rev().find(|entry| entry.begin <= from).expect("the first begins at 0").id;
        let piece = match source.fetch(timeline, from) {
            Ok(Some(piece)) if piece.start == from && piece.timeline == timeline && !piece.bytes.is_empty() => {
                Ok(piece)
            }
            Ok(Some(piece)) => Err(Error::NoFeed {
                from,
                tried: format!("{} gave log of timeline {} at {} instead", source.name(), piece.timeline, piece.start),
            }),
            Ok(None) => return,
            Err(error) => Err(error.into()),
        };
        let end = piece.as_ref().ok().map(LogBytes::end);
        if pieces.send(piece).is_err() {
            return;
        }
        match end {
            Some(end) => at = end,
            None => return,
        }
    }
}
