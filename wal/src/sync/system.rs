//! As the system has them.

use std::time::Instant;

pub use std::sync::{OnceLock, atomic, mpsc};
pub use std::{thread, thread_local};

pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

/// What time it is.
#[inline]
pub fn now() -> Instant {
    Instant::now()
}
