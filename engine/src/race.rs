//! Planted bugs in the order of what threads do. They strike in few of all orders, and a machine with strong memory hides those of
//! memtables: `schedules/run prove` and `memtable/orderings` notice them. The others, and how they are planted, are in
//! [`crate::mutant`].

seawall_wal::mutants! {
    "engine-race",
    /// A link to a record is set without making sure that the record is seen.
    RecordNotReleased,
    /// A link to a node is set without making sure that the node is seen.
    NodeNotReleased,
    /// A link is followed without making sure that what it leads to is seen.
    LinkNotAcquired,
    /// Readers are not told that a node is being changed.
    ChangeNotAnnounced,
    /// Readers may see a change before they see that there is one.
    ChangeNotFenced,
    /// Readers do not look whether a node changed meanwhile.
    ChangeNotNoticed,
    /// Readers may look whether a node changed before they have read it.
    LookNotFenced,
    /// The parent hears of a split before what was moved can be found from its left.
    SplitNotLinked,
    /// Readers see up to what is flushed, whether it is applied or not.
    UnappliedSeen,
    /// Writers who were stopped are not told that there is room.
    RoomNotAnnounced,
}
