//! Planted bugs in the order of what threads do. They strike in few of all orders, so it takes a checker that tries
//! many to notice them: `schedules/run prove`. The others, and how they are planted, are in [`crate::mutant`].

crate::mutants! {
    "wal-race",
    /// Threads are woken for a flush before the flush LSN says so.
    WokenBeforeFlushed,
    /// The calls at a place are counted after the look whether the wait is over.
    CallsCountedLate,
    /// One of all who sleep at a place is woken.
    OneIsWoken,
    /// A leader does not wake the flusher for those who came meanwhile.
    TurnNotPassedOn,
    /// What was asked for during a flush counts as done by it.
    RequestForgotten,
    /// A flush says of everything appended that it is flushed, not of what it wrote.
    FlushedToTheEnd,
    /// Who waits for a position does not look again once it has the lock.
    SeenWithoutTheLock,
    /// Who gives up waiting for a position takes others out as well.
    AnotherIsForgotten,
    /// When the log ends, threads that wait for a flush are not told.
    ThreadsNotTold,
    /// Nobody is told that the next segment is ready.
    ReadyNotAnnounced,
    /// Who asks for a segment after somebody else took it has another file made in its place.
    SegmentMadeAgain,
    /// Who waits looks at the flush LSN first and then whether the log has ended.
    EndSeenLast,
}
