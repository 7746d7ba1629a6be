//! Why a node does not start, or does not do what it is asked.

use std::path::PathBuf;

use seawall_replication::promotion::PromotionRefused;

/// A result of a node.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a node does not do what it is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Engine(#[from] seawall_engine::Error),
    /// The log.
    #[error(transparent)]
    Log(#[from] seawall_wal::Error),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] seawall_backup::Error),
    /// The archive's store.
    #[error(transparent)]
    Repository(#[from] seawall_backup::repository::RepositoryError),
    /// The repository's settings.
    #[error(transparent)]
    RepositorySettings(#[from] seawall_backup::repository::ConfigError),
    /// Replication.
    #[error(transparent)]
    Replication(#[from] seawall_replication::Error),
    /// It is not promoted.
    #[error(transparent)]
    NotPromoted(#[from] PromotionRefused),
    /// The data directory is not what the role needs.
    #[error("{} holds {found}, so it cannot be started as {wanted}; {advice}", path.display())]
    WrongData {
        /// The data directory.
        path: PathBuf,
        /// What is in it.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A new standby does not know whose it is.
    #[error("a new standby must know its cluster, and nobody told it ({why}); start its upstream, or set node.cluster")]
    ClusterUnknown {
        /// What was tried last.
        why: String,
    },
    /// Something that needs an archive.
    #[error("this node has no archive, so it cannot {operation}; set archive.url")]
    NoArchive {
        /// What was asked for.
        operation: &'static str,
    },
    /// The archive does not answer.
    #[error(
        "the archive does not answer, so this node cannot {operation} now; check archive.url and archive.endpoint, and try again"
    )]
    ArchiveSilent {
        /// What was asked for.
        operation: &'static str,
    },
    /// It is doing something else.
    #[error("this node is {actual}, so it cannot {operation}")]
    WrongState {
        /// What was asked for.
        operation: &'static str,
        /// What it is.
        actual: String,
    },
    /// Another node took over, and nothing of this one counts any more.
    #[error("this node was superseded, so it cannot {operation}: {why}")]
    Superseded {
        /// What was asked for.
        operation: &'static str,
        /// Who took over, and where.
        why: String,
    },
    /// The database is not open.
    #[error("this node has no database now: {why}")]
    NoDatabase {
        /// What is done or waited for until there is one, or what ended it.
        why: String,
    },
    /// The runtime did not start.
    #[error("cannot start the node's runtime: {0}")]
    Runtime(#[source] std::io::Error),
}
