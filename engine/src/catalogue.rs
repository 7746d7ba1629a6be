//! Which keyspaces there are, and were: names and numbers with the LSNs between which they exist, so that a snapshot
//! before a drop still finds what it had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_wal::Lsn;

use crate::format::KeyspaceId;
use crate::manifest::{KEYSPACES_MAX, KeyspaceEntry};
use crate::payload::KeyspaceChange;

/// A keyspace as handles share it.
#[derive(Debug)]
pub(crate) struct KeyspaceState {
    pub(crate) id: KeyspaceId,
    pub(crate) name: String,
    pub(crate) created: Lsn,
    dropped: AtomicU64,
}

impl KeyspaceState {
    pub(crate) fn dropped(&self) -> Lsn {
        Lsn::new(self.dropped.load(Ordering::Acquire))
    }

    /// Whether it is there for a reader at `at`.
    pub(crate) fn exists_at(&self, at: Lsn) -> bool {
        self.created <= at && at < self.dropped()
    }

    /// Whether no drop is in the log.
    pub(crate) fn is_live(&self) -> bool {
        self.dropped() == Lsn::MAX
    }
}

/// All keyspaces that some reader can still see.
#[derive(Debug)]
pub(crate) struct Catalogue {
    keyspaces: BTreeMap<KeyspaceId, Arc<KeyspaceState>>,
    next: u32,
}

impl Catalogue {
    pub(crate) fn new(entries: &[KeyspaceEntry], next: u32) -> Self {
        let keyspaces = entries.iter().map(|entry| {
            let state = KeyspaceState {
                id: entry.id,
                name: entry.name.clone(),
                created: entry.created,
                dropped: AtomicU64::new(entry.dropped.offset()),
            };
            (entry.id, Arc::new(state))
        });
        Self { keyspaces: keyspaces.collect(), next }
    }

    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    pub(crate) fn get(&self, id: KeyspaceId) -> Option<&Arc<KeyspaceState>> {
        self.keyspaces.get(&id)
    }

    pub(crate) fn live(&self, name: &str) -> Option<&Arc<KeyspaceState>> {
        self.keyspaces.values().find(|keyspace| keyspace.name == name && keyspace.is_live())
    }

    pub(crate) fn at(&self, name: &str, at: Lsn) -> Option<&Arc<KeyspaceState>> {
        self.keyspaces.values().find(|keyspace| keyspace.name == name && keyspace.exists_at(at))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<KeyspaceState>> {
        self.keyspaces.values()
    }

    pub(crate) fn entries(&self) -> Vec<KeyspaceEntry> {
        let entry = |keyspace: &Arc<KeyspaceState>| KeyspaceEntry {
            id: keyspace.id,
            name: keyspace.name.clone(),
            created: keyspace.created,
            dropped: keyspace.dropped(),
        };
        self.keyspaces.values().map(entry).collect()
    }

    /// Whether the change can be made.
    pub(crate) fn check(&self, change: KeyspaceChange<'_>) -> Result<(), &'static str> {
        match change {
            KeyspaceChange::Create { id, .. } if id.0 < self.next => Err("a keyspace number is used again"),
            KeyspaceChange::Create { name, .. } if self.live(name).is_some() => Err("a keyspace is created twice"),
            KeyspaceChange::Create { .. } if self.keyspaces.len() >= KEYSPACES_MAX => {
                Err("there are too many keyspaces")
            }
            KeyspaceChange::Create { .. } => Ok(()),
            KeyspaceChange::Drop { id } => match self.keyspaces.get(&id) {
                Some(keyspace) if keyspace.is_live() => Ok(()),
                _ => Err("a keyspace is dropped that is not there"),
            },
        }
    }

    /// Makes a change, whose record ends at `lsn`.
    pub(crate) fn apply(&mut self, change: KeyspaceChange<'_>, lsn: Lsn) -> Result<(), &'static str> {
        self.check(change)?;
        match change {
            KeyspaceChange::Create { id, name } => {
                let dropped = AtomicU64::new(Lsn::MAX.offset());
                let state = KeyspaceState { id, name: name.to_owned(), created: lsn, dropped };
                self.keyspaces.insert(id, Arc::new(state));
                self.next = id.0 + 1;
            }
            KeyspaceChange::Drop { id } => {
                self.keyspaces[&id].dropped.store(lsn.offset(), Ordering::Release);
            }
        }
        Ok(())
    }

    /// Forgets a keyspace that no reader can see any more.
    pub(crate) fn forget(&mut self, id: KeyspaceId) {
        self.keyspaces.remove(&id);
    }
}
