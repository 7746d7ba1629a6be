//! The bugs that can be planted in this crate; how, and what for, is said in the log's [`mutant`](seawall_wal::mutant).

seawall_wal::mutants! {
    "engine",
    /// Transactions are committed without a look at what they read.
    UncheckedTransactions,
    /// The check looks at the keys that were read, not at the ranges.
    UncheckedRanges,
    /// The check sees what readers see, and misses what is not flushed yet.
    UncheckedUnflushed,
    /// The check misses what is in the log and waits to be applied.
    UncheckedPending,
    /// A transaction that walks backward does not see its own writes.
    OwnWritesUnseenBackward,
    /// A transaction does not see which ranges it removed itself.
    OwnRangeDeletesUnseen,
    /// A snapshot's gets read the newest version.
    SnapshotsReadNewest,
    /// A merge keeps no old versions for snapshots.
    MergeForgetsSnapshots,
    /// Values come back in the order of the keys, not in the order they were asked for.
    ManyAnsweredInKeyOrder,
    /// Deletes are not applied.
    DeletesNotApplied,
    /// Memtables are written out without their deletes.
    DeletesNotWrittenOut,
    /// What has expired is decided by the clock on the wall, not by the time in the log.
    ExpiryByWallClock,
    /// A merge folds operands that a snapshot still tells apart.
    OperandsFoldedAcrossTheFloor,
    /// Of several operands for one key in a commit the last one replaces the others.
    OperandsReplaceEachOther,
    /// A merge lets operands go before it has found what they change.
    OperandsWithoutTheirBase,
    /// Of a value that has ended a merge leaves nothing, although operands from before its end lie above.
    EndsForgottenBelowOperands,
    /// Within a merge a value has ended for operands that came before its end.
    ExpiryAtTheFloorForOperands,
    /// What a commit wrote survives a delete of a range behind it in the same commit.
    RangeDeletesSpareTheirCommit,
    /// Readers see deletes of ranges in memtables only.
    RangeDeletesInTablesUnseen,
    /// Memtables are written out without their deletes of ranges.
    RangeDeletesNotWrittenOut,
    /// A merge keeps of a delete of a range only what lies over keys that are there.
    RangeDeletesCutToKeys,
    /// A merge lets deletes of ranges go that still hide something below.
    RangeDeletesDroppedAboveTheBottom,
    /// A transaction is not checked for ranges that were deleted since.
    UncheckedRangeDeletes,
    /// A transaction is not checked for values that have ended since it read them.
    UncheckedExpiry,
    /// Checksums of table blocks are not compared.
    BlocksNotChecked,
    /// A merge leaves out what it overlaps on the level it goes to.
    PickIgnoresTheNextLevel,
    /// Of a deep level 0 the newest tables go down first.
    PickTakesTheNewestFirst,
    /// A merge takes every level for the last one, below which deletes hide nothing.
    PickSeesTheBottomEverywhere,
    /// Tables are moved as they are onto others that they overlap.
    PickMovesOntoOthers,
    /// What merges may write a second is halved while flushes are slow, and stays so.
    PaceNeverComesBack,
    /// Merges are as slow as ever while writers wait for them.
    PaceNeverHurries,
    /// Writers are not slowed, however much waits to be written and merged.
    GateSlowsNobody,
    /// Writers are not stopped, however much there is in memory.
    GateStopsNobody,
    /// Writers that wait for room are not told what fails of making it.
    FailureNotTold,
    /// Checksums of values in blob files are not compared.
    BlobValuesNotChecked,
    /// A blob file is named before its bytes survive power loss.
    BlobsNotSynced,
    /// A copy can be opened before the names of its tables survive power loss.
    CopiedNamesNotSynced,
    /// A merge copies references to blob files as they are, whatever the list of the new table is.
    BlobsNotRenumbered,
    /// A repair takes what it gets for the file without looking at its digest.
    RepairsUnproven,
    /// If the first of several other copies of the log does not help, no other is asked.
    OneCopyAsked,
    /// The manifest lists the blob files that were written with tables of level 0, and forgets those that merges keep.
    KeptBlobsForgotten,
    /// Readers see what is applied, and power loss can take away again.
    VisibleBeforeDurable,
    /// A table is named before its bytes survive power loss.
    TablesNotSynced,
    /// A manifest lists tables whose names do not survive power loss.
    TablesFolderNotSynced,
    /// Copies of the control file are written and not synced.
    ControlNotSynced,
    /// An update of the control file writes one copy and leaves the other as it was.
    ControlUpdatedOnce,
    /// The checksum of a control file's copy is not compared.
    ControlNotChecked,
    /// The digest of the manifest is not compared.
    ManifestNotChecked,
    /// The manifest of before goes before the control file names its successor.
    OldManifestRemovedFirst,
    /// The manifest says that tables hold all that is applied, not all that they hold.
    RedoBeyondTables,
    /// Recovery writes tables of log that is still on its way to the disk.
    RecoveryTablesAheadOfLog,
    /// How far the log is flushed is not noted in the control file.
    WatermarkNotNoted,
    /// Whether another process has the directory is not asked.
    SecondOpenerLetIn,
}
