//! The HTTP face of a node: `/v1/…` in JSON, `/metrics`, `/healthz`, `/readyz`. This file says what a node must offer;
//! `server` owns connections and their limits, `routes` the paths, `api` the documents, `metrics` and `readiness` are
//! pure functions over them.

pub mod api;
mod body;
#[cfg(feature = "testing")]
pub mod fuzzing;
mod guard;
pub mod metrics;
mod patience;
pub mod readiness;
mod routes;
mod server;

use seawall_engine::Db;

use crate::failure::Failure;
use api::{BackupEvent, BackupRequest, BackupSummary, NodeStatus, PromoteRequest, Promoted, ReplicaStatus};

pub use routes::{ROUTES, Route};
pub use server::{Server, Settings};

/// What the HTTP API needs of a node. Every method may block; none is called on a thread of the async runtime.
pub trait HttpNode: Send + Sync + 'static {
    /// Its database, if it has one now. Reads and writes go straight to it: levels and admission are installed there.
    fn db(&self) -> Result<Db, Failure>;

    /// How it is.
    fn status(&self) -> NodeStatus;

    /// Its standbys, connected or not.
    fn replicas(&self) -> Vec<ReplicaStatus>;

    /// Makes it the primary of a new timeline.
    fn promote(&self, request: &PromoteRequest) -> Result<Promoted, Failure>;

    /// Makes a base backup, saying how far it is.
    fn create_backup(
        &self,
        request: &BackupRequest,
        progress: &mut dyn FnMut(BackupEvent),
    ) -> Result<BackupSummary, Failure>;

    /// The base backups in its archive, oldest first.
    fn backups(&self) -> Result<Vec<BackupSummary>, Failure>;
}
