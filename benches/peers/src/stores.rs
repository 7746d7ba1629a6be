//! The stores, one file each: how it is opened at the same durability and the same sizes as the others, and its own
//! words for writing and reading.

pub(crate) mod fjall;
pub(crate) mod lmdb;
pub(crate) mod redb;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocksdb;
pub(crate) mod seawall;
pub(crate) mod sqlite;

#[cfg(test)]
mod tests;
