//! Nodes whose disks damage what they hold: repaired from a copy, at the start and while they run; and stopped with the place
//! named when no copy is left.

mod archive;
mod nodes;
mod peers;
mod primary;
