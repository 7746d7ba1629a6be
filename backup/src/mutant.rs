//! The bugs that can be planted in this crate; how, and what for, is said in the log's [`mutant`](seawall_wal::mutant).

seawall_wal::mutants! {
    "backup",
    /// Digests of objects are not compared.
    DigestsNotCompared,
    /// An object that is there already is taken for somebody else's, whoever wrote it.
    OwnWriteTakenForAFence,
    /// Chunks are put over what is there.
    ChunksPutOverOthers,
    /// Log that cannot be read here ends the archiver, though it is repaired a moment later.
    UnreadableLogEndsArchiving,
}
