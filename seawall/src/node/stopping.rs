//! How a node stops: no more commits, then what is flushed reaches standbys and archive, then the database is closed.

use std::fmt;
use std::time::{Duration, Instant};

use seawall_engine::Refusal;

use super::database::Database;
use super::error::Result;
use super::{Inner, Part, Seen, State};

/// What was left when a node stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Standbys that lack something, with the bytes they lack.
    pub standbys: Vec<(String, u64)>,
    /// Bytes of flushed log the archive lacks.
    pub archive_bytes: u64,
}

impl Remaining {
    /// Whether everything reached everybody.
    pub fn is_nothing(&self) -> bool {
        self.standbys.is_empty() && self.archive_bytes == 0
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> =
            self.standbys.iter().map(|(name, bytes)| format!("standby {name} lacks {bytes} bytes")).collect();
        if self.archive_bytes > 0 {
            parts.push(format!("the archive lacks {} bytes", self.archive_bytes));
        }
        f.write_str(&if parts.is_empty() { "nothing remained".to_owned() } else { parts.join(", ") })
    }
}

impl Inner {
    pub(super) async fn stop(&self, deadline: Duration) -> Result<Remaining> {
        let until = Instant::now() + deadline;
        let left = || until.saturating_duration_since(Instant::now());
        self.set_state(State::Draining, "");
        let part = std::mem::replace(&mut *self.part.lock().await, Part::Stopped);
        let mut remaining = Remaining::default();
        match part {
            Part::Primary(mut primary) => {
                let db = primary.db.clone();
                db.refuse_writes(Refusal::Stopping, "it is being stopped");
                let flushing = db.clone();
                let flushed = tokio::task::spawn_blocking(move || flushing.sync()).await;
                if let Ok(Err(error)) = flushed {
                    tracing::error!(%error, "the log could not be flushed");
                }
                primary.abort_tasks();
                let archiver = self.archiver.lock().take();
                let server = primary.feeding.server.take();
                let (drained, archived) = tokio::join!(
                    async {
                        match server {
                            Some(server) => server.drain(left()).await,
                            None => Ok(()),
                        }
                    },
                    async {
                        match archiver {
                            Some(archiver) => Some((archiver.progress().clone(), archiver.stop(left()).await)),
                            None => None,
                        }
                    }
                );
                if let Err(standbys) = drained {
                    tracing::warn!(?standbys, "the deadline came before these standbys had everything");
                }
                // Those that are not there count too: what they lack is in this node's log only.
                let lacking =
                    primary.feeding.registry.report().into_iter().filter(|standby| standby.lag.flush.bytes > 0);
                remaining.standbys =
                    lacking.map(|standby| (standby.name.to_string(), standby.lag.flush.bytes)).collect();
                if let Some((progress, stopped)) = archived {
                    remaining.archive_bytes = progress.status().lag_bytes;
                    if let Err(error) = stopped {
                        tracing::error!(%error, "the archive did not get everything");
                    }
                } else if self.options.archive.is_some() {
                    remaining.archive_bytes = db.log().flushed().value().offset();
                }
            }
            Part::Standby { following, feeding } => {
                following.stop().await;
                if let Some(server) = feeding.and_then(|feeding| feeding.server) {
                    let _ = server.drain(left().min(Duration::from_secs(2))).await;
                }
            }
            Part::Restored | Part::Starting | Part::Changing | Part::Stopped => {}
        }
        *self.seen.lock() = Seen::default();
        // Taken last: a standby whose data were just being exchanged has come to the end of that.
        let last = std::mem::replace(&mut *self.database.write(), Database::Gone(String::from("it is stopped")));
        if let Database::Open(db) = last {
            let closed = tokio::task::spawn_blocking(move || db.close()).await;
            if let Ok(closed) = closed {
                closed?;
            }
        }
        Ok(remaining)
    }
}
