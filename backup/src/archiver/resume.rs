//! Where to go on after a start: the archive says, not a local file. The cursor object gives a position, the chunks after
//! it are found by name, and all of it is compared with the local log.

use std::sync::Arc;

use seawall_wal::{Log, Lsn, Position, TimelineHistory, Timestamp};

use super::cursor::Cursor;
use super::{Gaps, Shared, now, upload};
use crate::archive::blocking;
use crate::error::{Error, Result};

/// The end of what is archived of this log.
///
/// # Errors
/// [`Error::Fenced`], [`Error::TimelineTaken`], [`Error::WouldLeaveGap`], and the store's.
pub(super) async fn resume(shared: &Arc<Shared>) -> Result<Cursor> {
    let archive = &shared.archive;
    // Asked here so that a store that cannot fence is told of at start, not at the first promotion.
    archive.conditions().await?;
    let history = shared.log().history();
    archive.record_history(&history, &shared.name, now()).await?;
    let mut cursor = match last_known(shared, &history).await? {
        Some(cursor) => cursor,
        None => return from_the_local_start(shared).await,
    };
    loop {
        let position = cursor.position();
        let timeline = timeline_after(&history, position.lsn);
        let Some(found) = archive.chunk(timeline, history.next_byte(position.lsn)).await? else { break };
        cursor = upload::compare(shared, position, found).await?;
    }
    still_here(shared, cursor).await
}

/// The newest cursor object of our history, or the beginning if there are chunks but no cursor yet.
async fn last_known(shared: &Shared, history: &TimelineHistory) -> Result<Option<Cursor>> {
    for entry in history.entries().iter().rev() {
        let Some(frontier) = shared.archive.frontier(entry.id).await? else { continue };
        if frontier.nonce != entry.nonce {
            let by = "its cursor object is another node's".to_owned();
            return Err(Error::Fenced { timeline: entry.id, at: entry.begin, by });
        }
        // A parent's log may go on after our fork, unfenced; it is not ours there.
        let end = history.end_of(entry.id);
        if frontier.position.lsn < end {
            return Ok(Some(Cursor::new(frontier.position, frontier.commit_time)));
        }
        let fork = history.entries().iter().find(|next| next.fork.lsn == end).expect("an end is a fork").fork;
        return Ok(Some(Cursor::new(fork, Timestamp(0))));
    }
    let first = &history.entries()[0];
    let begun = shared.archive.chunk_head(first.id, Lsn::ZERO).await?.is_some();
    Ok(begun.then(|| Cursor::new(Position::ZERO, Timestamp(0))))
}

/// Nothing is archived yet: as far back as the log goes here.
async fn from_the_local_start(shared: &Arc<Shared>) -> Result<Cursor> {
    let local = shared.clone();
    let position = blocking(move || oldest(local.log())).await?;
    if position.lsn > Lsn::ZERO {
        tracing::warn!(from = %position.lsn, "the archive begins here: earlier log has been recycled");
    }
    Ok(Cursor::new(position, Timestamp(0)))
}

/// Checks that the log from the cursor on is still here, and that it is the log that was archived.
async fn still_here(shared: &Arc<Shared>, cursor: Cursor) -> Result<Cursor> {
    let local = shared.clone();
    let archived = cursor.position();
    let timeline = timeline_after(&shared.log().history(), archived.lsn);
    let fenced = |by: String| Error::Fenced { timeline, at: archived.lsn, by };
    let here = blocking(move || Ok::<_, Error>(local.log().position_at(archived.lsn)?)).await?;
    if here == Some(archived) {
        return Ok(cursor);
    }
    let local = shared.clone();
    let oldest = blocking(move || oldest(local.log())).await?;
    let flushed = shared.log().flushed().value();
    if archived.lsn > flushed {
        return Err(fenced(format!(
            "the archive holds its log up to {archived}, this node only up to {flushed}; fetch it first"
        )));
    }
    if oldest.lsn <= archived.lsn {
        return Err(fenced(format!("what is archived up to {archived} is another history than this node's")));
    }
    match shared.config.gaps {
        Gaps::Refuse => Err(Error::WouldLeaveGap { timeline, archived: archived.lsn, oldest: oldest.lsn }),
        Gaps::Allow => {
            tracing::error!(from = %archived, to = %oldest.lsn, "the archive has a gap from here on: make a base backup");
            Ok(Cursor::new(oldest, Timestamp(0)))
        }
    }
}

fn oldest(log: &Log) -> Result<Position> {
    loop {
        let lsn = log.oldest();
        match log.position_at(lsn)? {
            Some(position) => return Ok(position),
            // It was recycled meanwhile.
            None if log.oldest() > lsn => {}
            None => return Err(seawall_wal::Error::Removed { requested: lsn, oldest: log.oldest() }.into()),
        }
    }
}

/// The timeline of the byte that follows the position `lsn`.
fn timeline_after(history: &TimelineHistory, lsn: Lsn) -> seawall_wal::TimelineId {
    let next = history.next_byte(lsn);
    let newest = history.entries().iter().rev().find(|entry| entry.begin <= next);
    newest.expect("the first timeline begins at 0").id
}
