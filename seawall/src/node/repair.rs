//! A node repairs what it finds damaged from other copies: a segment of its log from its peers and its archive, a table from
//! the archive; when its database is opened, and while it runs. What no copy helps with stops its writes, until one does.

mod archive;

use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_engine::{Builder, Copies, Damage, Db, FileHash, Refusal, TableSource};
use seawall_replication::driver::{PeerSource, ReplicationServer, ServerConfig};
use seawall_wal::{ClusterId, SegmentSize, SegmentSource};

use archive::ArchiveCopy;

use super::error::{Error, Result};
use super::state::Condition;
use super::{Inner, Role, State};

/// How often a running node asks whether readers met damage.
const LOOK: Duration = Duration::from_millis(500);
/// Between attempts while somebody who may have a copy does not answer.
const RETRY: Duration = Duration::from_secs(5);
/// Between attempts once no copy helps: one may be put right, or made, after all.
const GIVEN_UP: Duration = Duration::from_secs(15);
/// A segment is looked for so often among peers that answer and do not help before the node gives up: theirs may be under
/// repair as well.
const ATTEMPTS: u32 = 3;
/// Without peers a segment is looked for twice, so far apart: of one that nobody needs any more retention lets go meanwhile.
const LET_GO: Duration = Duration::from_secs(2);
/// A node that does not open without a repair waits so long for them: after a power failure all start at once.
const START: Duration = Duration::from_secs(60);

/// Opens a database; what is damaged is repaired from other copies.
pub(super) async fn open(inner: &Arc<Inner>, builder: Builder) -> Result<Db> {
    let until = Instant::now() + START;
    // Until it can open, and so listens for standbys.
    let mut helping = None;
    loop {
        let (copies, work) = (inner.clone(), builder.clone());
        let opened = tokio::task::spawn_blocking(move || {
            work.open_repairing(|cluster, size| copies.copies(cluster, size)).map(|(db, _)| db)
        });
        let stopping = |_| Error::WrongState { operation: "start", actual: String::from("stopping") };
        match opened.await.map_err(stopping)? {
            Err(error) if error.is_for_want_of_an_answer() && Instant::now() < until => {
                tracing::warn!(%error, "this node does not open before it is repaired; trying again");
                if helping.is_none() {
                    helping = help_others(inner, &builder).await;
                }
                inner.await_database(format!(
                    "it does not open before it is repaired, and copies are asked for again: {error}"
                ));
                tokio::time::sleep(RETRY.min(until.saturating_duration_since(Instant::now()))).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// A node that waits for others gives them what is whole of its own log: they may wait for it.
async fn help_others(inner: &Inner, builder: &Builder) -> Option<ReplicationServer> {
    let listen = inner.options.replication_listen?;
    let work = builder.clone();
    let (control, segments) = match tokio::task::spawn_blocking(move || work.sealed_log()).await.ok()? {
        Ok(log) => log,
        Err(error) => {
            tracing::warn!(%error, "nothing is known of this node's log, so no other node can repair its own from it");
            return None;
        }
    };
    let config = ServerConfig {
        timeout: inner.options.replication_timeout,
        peers_max: inner.options.standbys_max,
        ..ServerConfig::new(listen, control.cluster, control.node, control.segment_size)
    };
    let started = ReplicationServer::start_sealed(config, segments).await;
    started.inspect_err(|error| tracing::warn!(%error, "other nodes cannot repair their logs from this one yet")).ok()
}

impl Inner {
    /// Where else this node's data can be had. Peers are asked before the archive: they are nearer, cost nothing, and have
    /// what the archive does not have yet.
    fn copies(self: &Arc<Self>, cluster: ClusterId, size: SegmentSize) -> Copies {
        let peer = |address: &String| -> Arc<dyn SegmentSource> {
            Arc::new(PeerSource::new(address, cluster, size, self.options.replication_timeout, self.runtime.clone()))
        };
        let mut log: Vec<_> = self.peers().into_iter().map(peer).collect();
        let tables: Arc<dyn TableSource> = match &self.options.archive {
            None => Arc::new(NoTables),
            Some(_) => {
                let archive = Arc::new(ArchiveCopy::new(self.clone(), cluster));
                log.push(archive.clone());
                archive
            }
        };
        Copies { log, tables }
    }

    /// Whom this node asks for log: those it was told of, then those it follows.
    fn peers(&self) -> Vec<&String> {
        let upstreams = match &self.options.role {
            Role::Standby { upstreams } => upstreams.as_slice(),
            Role::Primary => &[],
        };
        let mut peers: Vec<&String> = Vec::new();
        for peer in self.options.repair_from.iter().chain(upstreams) {
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        peers
    }
}

/// Without an archive there is no other copy of a table: each node merges for itself and has files of its own.
#[derive(Debug)]
struct NoTables;

impl TableSource for NoTables {
    fn fetch(&self, _: &FileHash, _: u64) -> seawall_engine::Result<Vec<u8>> {
        Err(seawall_engine::Error::WrongState {
            operation: "fetch another copy of a table",
            actual: String::from("there is no archive to repair it from, and other nodes have other tables"),
        })
    }
}

/// Looks for damage as long as the node runs, also after no copy helped.
pub(super) async fn watch(inner: Arc<Inner>) {
    let mut stopped = None;
    loop {
        tokio::time::sleep(LOOK).await;
        // There is none while a standby is being rebuilt.
        let Ok(db) = inner.db() else { continue };
        let mut hopeless = None;
        for damage in db.damages() {
            match repair_patiently(&inner, &db, &damage).await {
                Attempt::Repaired => {}
                Attempt::NotNow(why) => {
                    tracing::warn!(%damage, why, "damage is not repaired yet; it is not served, and tried again");
                    tokio::time::sleep(RETRY).await;
                }
                Attempt::NoCopy(why) => {
                    hopeless.get_or_insert((damage, why));
                }
            }
        }
        match hopeless {
            Some((damage, why)) => {
                stopped.get_or_insert_with(|| StoppedWrites::by(&inner, &db, &damage, &why));
                tokio::time::sleep(GIVEN_UP).await;
            }
            None if db.damages().is_empty() => {
                if let Some(stopped) = stopped.take() {
                    stopped.undo(&inner, &db);
                }
            }
            None => {}
        }
    }
}

/// A node that takes no writes because of damage, and what it did before.
struct StoppedWrites {
    before: Condition,
    words: String,
}

impl StoppedWrites {
    fn by(inner: &Inner, db: &Db, damage: &Damage, why: &str) -> Self {
        let words = format!(
            "{} is damaged in {}, and it cannot be repaired: {why}; restore this node from a standby or the archive",
            described(db, damage),
            db.path().display()
        );
        tracing::error!(%damage, why, "damage cannot be repaired; this node takes no more writes");
        let before = inner.condition.read().clone();
        inner.set_state(State::Failed, &words);
        db.refuse_writes(Refusal::Damaged, &words);
        Self { before, words }
    }

    /// Nothing is damaged any more. What else may have happened to the node meanwhile stays as it is.
    fn undo(self, inner: &Inner, db: &Db) {
        db.take_writes(Refusal::Damaged);
        let mut known = inner.condition.write();
        if *known == (Condition { state: State::Failed, words: self.words }) {
            tracing::warn!("everything that was damaged is repaired; this node goes on");
            *known = match self.before.state {
                // It may have found out meanwhile that it may write.
                State::ReadOnly if db.takes_writes() => Condition { state: State::Running, words: String::new() },
                _ => self.before,
            };
        }
    }
}

/// What is damaged, with the name of its file.
pub(super) fn described(db: &Db, damage: &Damage) -> String {
    damage.describe(&db.log().history(), db.log().options().segment_size)
}

/// How a repair went.
enum Attempt {
    Repaired,
    /// Whether there is a copy is not known, or something that passes stands in the way: a full disk, a segment that is
    /// still being written.
    NotNow(String),
    NoCopy(String),
}

async fn repair_patiently(inner: &Arc<Inner>, db: &Db, damage: &Damage) -> Attempt {
    let (attempts, pause) = match damage {
        Damage::File(..) => (1, RETRY),
        Damage::Segment(_) if inner.peers().is_empty() => (2, LET_GO),
        Damage::Segment(_) => (ATTEMPTS, RETRY),
    };
    for _ in 1..attempts {
        match repair(inner, db, damage).await {
            Attempt::NoCopy(why) => {
                tracing::warn!(%damage, why, "damage is not repaired; copies are asked for again");
                tokio::time::sleep(pause).await;
            }
            attempt => return attempt,
        }
    }
    repair(inner, db, damage).await
}

async fn repair(inner: &Arc<Inner>, db: &Db, damage: &Damage) -> Attempt {
    let copies = inner.copies(db.cluster(), db.log().options().segment_size);
    let (work_db, work_damage) = (db.clone(), damage.clone());
    let work = tokio::task::spawn_blocking(move || work_db.repair(&work_damage, &copies));
    match work.await {
        Ok(Ok(done)) => {
            tracing::warn!(%damage, path = %done.path.display(), kept = ?done.kept, "{}", done.how);
            Attempt::Repaired
        }
        // It was let go meanwhile.
        Ok(Err(_)) if !db.damages().contains(damage) => Attempt::Repaired,
        Ok(Err(error)) if error.says_that_no_copy_helps() => Attempt::NoCopy(error.to_string()),
        Ok(Err(error)) => Attempt::NotNow(error.to_string()),
        Err(_) => Attempt::NotNow(String::from("this node is stopping")),
    }
}
