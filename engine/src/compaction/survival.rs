//! Which versions a merge keeps: those a reader can still need.

use seawall_wal::Lsn;

use crate::table::{Content, EntryRef};

/// Which versions of a key survive, asked newest first.
#[derive(Debug)]
pub(super) struct Survival {
    floor: Lsn,
    bottom: bool,
    key: Vec<u8>,
    /// Whether a version at or below the floor was seen: readers need none older.
    settled: bool,
}

impl Survival {
    /// `bottom` is whether no deeper level has any of its keys.
    pub(super) fn new(floor: Lsn, bottom: bool) -> Self {
        Self { floor, bottom, key: Vec::new(), settled: false }
    }

    /// Whether the next version survives.
    pub(super) fn keeps(&mut self, entry: EntryRef<'_>) -> bool {
        if self.key != entry.key {
            self.key.clear();
            self.key.extend_from_slice(entry.key);
            self.settled = false;
        }
        if entry.lsn > self.floor {
            return true;
        }
        let below_all = self.bottom && entry.content == Content::Delete;
        !std::mem::replace(&mut self.settled, true) && !below_all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_at_the_floor_survives_and_a_delete_only_above_something() {
        let survivors = |bottom, versions: &[(u64, Content<'static>)]| -> Vec<u64> {
            let mut survival = Survival::new(Lsn::new(10), bottom);
            let entry = |(lsn, content): &(u64, Content<'static>)| EntryRef {
                key: b"k",
                lsn: Lsn::new(*lsn),
                content: *content,
            };
            versions.iter().filter(|version| survival.keeps(entry(version))).map(|(lsn, _)| *lsn).collect()
        };
        let put = Content::Put(b"v");
        assert_eq!(survivors(true, &[(12, put), (11, Content::Delete), (10, put), (9, put)]), [12, 11, 10]);
        assert_eq!(survivors(false, &[(12, put), (9, Content::Delete), (8, put)]), [12, 9]);
        assert_eq!(survivors(true, &[(12, put), (9, Content::Delete), (8, put)]), [12]);
    }
}
