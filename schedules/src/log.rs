//! What the log promises to threads and tasks that use it at the same time.

pub(crate) mod answers;
mod bench;
pub(crate) mod closing;
pub(crate) mod failures;
pub(crate) mod reading;
pub(crate) mod segments;
