//! What tests do to a tree: stop it in the middle of a split, and plant the bug they must notice.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Default)]
pub(super) struct Probe {
    stay_left: AtomicBool,
    on_split: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl Probe {
    /// From now on readers do not go on to the right: the bug of a tree without high keys.
    pub(super) fn plant_bug(&self) {
        self.stay_left.store(true, Ordering::Relaxed);
    }

    pub(super) fn stays_left(&self) -> bool {
        self.stay_left.load(Ordering::Relaxed)
    }

    /// Runs whenever a node was split of which its parent does not know yet.
    pub(super) fn on_split(&self, run: impl Fn() + Send + Sync + 'static) {
        assert!(self.on_split.set(Box::new(run)).is_ok(), "one at a time");
    }

    pub(super) fn split(&self) {
        if let Some(run) = self.on_split.get() {
            run();
        }
    }
}
