//! How long work tells of itself while it runs.

use std::sync::Arc;

/// Told of progress, now and then, perhaps from several threads; must return soon.
pub type Progress<T> = Option<Arc<dyn Fn(&T) + Send + Sync>>;
