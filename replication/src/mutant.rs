//! The bugs that can be planted in this crate; how, and what for, is said in the log's [`mutant`](seawall_wal::mutant).

seawall_wal::mutants! {
    "replication",
    /// A standby reports what it has written as flushed.
    WrittenReportedAsFlushed,
    /// One standby is enough, however many are asked for.
    OneConfirmationIsEnough,
    /// Standbys confirm that the policy does not name.
    StrangersConfirm,
    /// A node lets itself be fed by one whose timeline is older than what it knows.
    FedByAnOlderTimeline,
    /// Log is given to whoever repairs a segment, of whatever cluster it is.
    StrangersFetch,
    /// Log is read for a repair from wherever somebody asks.
    FetchedFromAnywhere,
}
