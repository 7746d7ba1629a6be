//! A real database whose log is archived, and what it looked like at the moments a test will come back to.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall_backup::backup::BackupReport;
use seawall_backup::{Archive, Archiver, ArchiverConfig, BackupOptions};
use seawall_engine::{Db, Keyspace, LogRetention};
use seawall_wal::storage::Storage;
use seawall_wal::{LogOwner, Lsn, NodeId, Timestamp};

use super::{SIZE, cluster, hasty};

/// What a restored copy must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub lsn: Lsn,
    pub time: Timestamp,
    pub digest: [u8; 32],
}

pub struct Database {
    pub dir: tempfile::TempDir,
    pub db: Db,
    pub moments: Vec<Moment>,
    pub random: u64,
}

impl Database {
    pub fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = open(&dir.path().join("primary"), 1);
        Database { dir, db, moments: vec![], random: seed }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn keyspace(&mut self) -> Keyspace {
        let name = ["users", "orders", "log"][self.random(3) as usize];
        self.db.keyspace(name).unwrap()
    }

    /// Puts and removes keys of a few keyspaces, now and then many in one batch.
    pub fn write(&mut self, commits: usize) {
        for _ in 0..commits {
            let keyspace = self.keyspace();
            let mut batch = self.db.batch();
            for _ in 0..1 + self.random(4) {
                let key = format!("key-{:04}", self.random(500));
                if self.random(5) == 0 {
                    batch.remove(&keyspace, key);
                } else {
                    let len = 10 + self.random(600) as usize;
                    let fill = self.random(256) as u8;
                    let value: Vec<u8> = (0..len).map(|at| fill.wrapping_mul(at as u8)).collect();
                    batch.put(&keyspace, key, value);
                }
            }
            batch.commit().unwrap();
        }
    }

    /// Remembers what the database holds now.
    pub fn note(&mut self) -> Moment {
        let (position, time) = self.db.applied();
        let snapshot = self.db.snapshot().unwrap();
        assert_eq!(snapshot.lsn(), position.lsn);
        let moment = Moment { lsn: position.lsn, time, digest: snapshot.digest().unwrap().root };
        self.moments.push(moment.clone());
        moment
    }

    pub fn archiver(&self, archive: &Archive) -> Archiver {
        self.archiver_with(archive, hasty())
    }

    pub fn archiver_with(&self, archive: &Archive, config: ArchiverConfig) -> Archiver {
        Archiver::start(
            archive.clone(),
            Arc::new(self.db.clone()) as Arc<dyn LogOwner>,
            self.db.node(),
            "primary",
            config,
        )
    }

    pub async fn archive_all(&self, archive: &Archive) {
        self.archiver(archive).stop(Duration::from_secs(20)).await.unwrap();
    }

    /// A base backup, with an archiver running meanwhile.
    pub async fn backup(&self, archive: &Archive) -> BackupReport {
        let _archiver = self.archiver(archive);
        let options = BackupOptions { digest: true, ..BackupOptions::default() };
        archive.create_backup(&self.db, &options).await.unwrap()
    }
}

pub fn open(path: &Path, node: u8) -> Db {
    Db::builder(path)
        .segment_size(SIZE)
        .cluster(cluster())
        .node(NodeId::from_bytes([node; 16]))
        .memtable_bytes(64 << 10)
        .table_bytes(64 << 10)
        // About half of the values lie in blob files, which are to be found wherever tables are.
        .blob_bytes(Some(300))
        // Nothing may go that an archiver started later still needs.
        .log_retention(LogRetention::Node)
        .open()
        .unwrap()
}

/// What a directory holds, opened as it is.
pub fn moment_of(path: &Path) -> Moment {
    moment_on(Arc::new(seawall_wal::storage::Disk::new()), path)
}

/// The same on any storage.
pub fn moment_on(storage: Arc<dyn Storage>, path: &Path) -> Moment {
    let db = Db::builder(path).storage(storage).create(seawall_engine::Create::Never).open().unwrap();
    let moment = moment_of_open(&db);
    db.close().unwrap();
    moment
}

/// What an open database holds now.
pub fn moment_of_open(db: &Db) -> Moment {
    let (position, time) = db.applied();
    Moment { lsn: position.lsn, time, digest: db.snapshot().unwrap().digest().unwrap().root }
}
