//! What one writer commits, one after the other. The n-th commit is the same whenever it is asked for, and what is there
//! after n of them depends on the last forty only, so that a check costs the same after a million.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use seawall_engine::{Batch, Db, Keyspace, MergeOperator};

/// Keys of a writer. Of so many commits in a row each writes each key once, and removes each once.
const KEYS: u64 = 40;
/// Bytes of a value at most. A few are long enough for a blob file.
const VALUE_LEN_MAX: usize = 700;
const LONG_VALUE_LEN: usize = 6_000;
/// One of so many commits has a long value.
const LONG_EVERY: u64 = 13;
/// One of so many commits removes a range of so many keys.
const RANGE_EVERY: u64 = 7;
const RANGE_KEYS: u64 = 3;
/// The key under which a writer counts its commits, by a merge operator, and the one of the last commit's number.
const COUNT: &str = "count";
const LAST: &str = "last";

/// What one writer commits.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    seed: u64,
    writer: u32,
}

/// How what is there differs from what was committed.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// Commits were acknowledged and are not there.
    #[error("writer {writer} was told of {acknowledged} commits, and {found} are there: acknowledged commits are lost")]
    Lost {
        /// Whose.
        writer: u32,
        /// How many it was told of.
        acknowledged: u64,
        /// How many are there.
        found: u64,
    },
    /// There are commits that were never made: no more than one at a time was under way.
    #[error("writer {writer} was told of {acknowledged} commits, and {found} are there: nobody made so many")]
    Invented {
        /// Whose.
        writer: u32,
        /// How many it was told of.
        acknowledged: u64,
        /// How many are there.
        found: u64,
    },
    /// What is there is not what the commits leave.
    #[error("after {commits} commits of writer {writer} the key {key:?} has {found}, not {expected}")]
    Differs {
        /// Whose.
        writer: u32,
        /// By the number of the last one that is there.
        commits: u64,
        /// Which.
        key: String,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// It could not be read.
    #[error(transparent)]
    Engine(#[from] seawall_engine::Error),
}

impl Story {
    /// Of the writer with this number. Writers and seeds tell different ones.
    pub fn new(seed: u64, writer: u32) -> Self {
        Self { seed, writer }
    }

    /// The writer's number.
    pub fn writer(&self) -> u32 {
        self.writer
    }

    /// The name of the keyspace it is told in.
    pub fn keyspace(&self) -> String {
        format!("writer-{}", self.writer)
    }

    /// What commit `number` does, counted from 0.
    pub fn write(&self, number: u64, keyspace: &Keyspace, batch: &mut Batch) {
        if let Some((start, end)) = removed_range(number) {
            batch.remove_range(keyspace, start..end);
        }
        batch.put(keyspace, key(number), self.value(number));
        batch.remove(keyspace, key(number + KEYS / 2));
        batch.put(keyspace, LAST, number.to_string());
        batch.merge(keyspace, COUNT, MergeOperator::Add, 1_i64.to_le_bytes());
    }

    /// What is there after the first `commits` of them.
    pub fn expected(&self, commits: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut map = BTreeMap::new();
        for number in commits.saturating_sub(KEYS)..commits {
            if let Some((start, end)) = removed_range(number) {
                map.retain(|key: &Vec<u8>, _| *key < start.clone().into_bytes() || *key >= end.clone().into_bytes());
            }
            map.insert(key(number).into_bytes(), self.value(number));
            map.remove(key(number + KEYS / 2).as_bytes());
        }
        if let Some(last) = commits.checked_sub(1) {
            map.insert(LAST.into(), last.to_string().into_bytes());
            map.insert(COUNT.into(), commits.to_le_bytes().to_vec());
        }
        map
    }

    /// How many of its commits a database has: a prefix of them, wholly, or it says what is wrong.
    pub fn commits_in(&self, db: &Db) -> Result<u64, Wrong> {
        let mut found = BTreeMap::new();
        // The name is there before the first commit.
        if db.keyspaces().contains(&self.keyspace()) {
            for pair in db.existing_keyspace(&self.keyspace())?.iter() {
                let (key, value) = pair?;
                found.insert(key.to_vec(), value.to_vec());
            }
        }
        let last = found.get(LAST.as_bytes()).map(|last| String::from_utf8_lossy(last).into_owned());
        let commits = match last {
            Some(text) => {
                text.parse::<u64>().map_err(|_| self.differs(0, LAST.as_bytes(), Some(text.as_bytes()), None))? + 1
            }
            None => 0,
        };
        let expected = self.expected(commits);
        if found == expected {
            return Ok(commits);
        }
        let keys = expected.keys().chain(found.keys());
        let key = keys.into_iter().find(|key| expected.get(*key) != found.get(*key)).expect("the maps differ");
        Err(self.differs(commits, key, found.get(key).map(Vec::as_slice), expected.get(key).map(Vec::as_slice)))
    }

    /// As [`commits_in`](Self::commits_in), when the writer was told of so many, and had at most one more under way.
    pub fn check(&self, db: &Db, acknowledged: u64) -> Result<u64, Wrong> {
        let (writer, found) = (self.writer, self.commits_in(db)?);
        match found {
            _ if found < acknowledged => Err(Wrong::Lost { writer, acknowledged, found }),
            _ if found > acknowledged + 1 => Err(Wrong::Invented { writer, acknowledged, found }),
            _ => Ok(found),
        }
    }

    /// Bytes that no other commit writes: they begin with the number and go on at random.
    fn value(&self, number: u64) -> Vec<u8> {
        let mut random = SmallRng::seed_from_u64(self.seed ^ u64::from(self.writer) << 48 ^ number);
        let len = match number % LONG_EVERY {
            0 => LONG_VALUE_LEN,
            _ => random.next_u64() as usize % VALUE_LEN_MAX,
        };
        let mut value = vec![0; 8 + len];
        value[..8].copy_from_slice(&number.to_le_bytes());
        random.fill_bytes(&mut value[8..]);
        value
    }

    fn differs(&self, commits: u64, key: &[u8], found: Option<&[u8]>, expected: Option<&[u8]>) -> Wrong {
        Wrong::Differs {
            writer: self.writer,
            commits,
            key: String::from_utf8_lossy(key).into_owned(),
            found: briefly(found),
            expected: briefly(expected),
        }
    }
}

fn key(number: u64) -> String {
    format!("{:02}", number % KEYS)
}

/// The range of keys that a commit removes first, if it does.
fn removed_range(number: u64) -> Option<(String, String)> {
    let start = number % (KEYS - RANGE_KEYS);
    number.is_multiple_of(RANGE_EVERY).then(|| (key(start), key(start + RANGE_KEYS)))
}

/// A value as far as a sentence has room for it.
fn briefly(value: Option<&[u8]>) -> String {
    const SHOWN: usize = 12;
    match value {
        None => String::from("nothing"),
        Some(value) => {
            let shown: String = value.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
            format!("{shown}{} ({} bytes)", if value.len() > SHOWN { "…" } else { "" }, value.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What commits leave, all of them done one after the other.
    fn told(story: &Story, commits: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut map: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for number in 0..commits {
            if let Some((start, end)) = removed_range(number) {
                map.retain(|key, _| key.as_slice() < start.as_bytes() || key.as_slice() >= end.as_bytes());
            }
            map.insert(key(number).into_bytes(), story.value(number));
            map.remove(key(number + KEYS / 2).as_bytes());
            map.insert(LAST.into(), number.to_string().into_bytes());
            map.insert(COUNT.into(), (number + 1).to_le_bytes().to_vec());
        }
        map
    }

    #[test]
    fn what_is_expected_after_the_last_forty_is_what_all_commits_leave() {
        let story = Story::new(7, 3);
        for commits in [0, 1, 2, 39, 40, 41, 77, 1_000] {
            assert_eq!(story.expected(commits), told(&story, commits), "{commits} commits");
        }
    }

    #[test]
    fn a_database_is_what_it_was_told_and_every_falsehood_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let story = Story::new(1, 0);
        assert_eq!(story.commits_in(&db).unwrap(), 0);
        let keyspace = db.keyspace(&story.keyspace()).unwrap();
        for number in 0..90 {
            let mut batch = db.batch();
            story.write(number, &keyspace, &mut batch);
            batch.commit().unwrap();
        }
        assert_eq!((story.check(&db, 90).unwrap(), story.check(&db, 89).unwrap()), (90, 90));
        assert!(matches!(story.check(&db, 91).unwrap_err(), Wrong::Lost { acknowledged: 91, found: 90, .. }));
        assert!(matches!(story.check(&db, 88).unwrap_err(), Wrong::Invented { .. }));
        keyspace.insert("zz", "something else").unwrap();
        let words = story.commits_in(&db).unwrap_err().to_string();
        assert!(words.starts_with("after 90 commits of writer 0 the key \"zz\" has 736f6d657468696e67"), "{words}");
        assert!(words.ends_with("not nothing"), "{words}");
    }
}
