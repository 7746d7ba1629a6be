//! What a database promises to threads and tasks that use it at the same time.

mod bench;
pub(crate) mod closing;
pub(crate) mod commits;
pub(crate) mod tables;
