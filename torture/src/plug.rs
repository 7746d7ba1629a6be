//! Telling stories on a real disk until the plug is pulled, and looking at what is there when it is back. What was
//! acknowledged is written down in a file elsewhere, where nothing is pulled.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seawall_engine::{CommitLevel, Db};
use seawall_wal::SegmentSize;

use crate::story::{Story, Wrong};

/// Small, so that few commits meet switches of segments, memtables written out, merges and blob files.
const SEGMENT_BYTES: u32 = 64 << 10;
const MEMTABLE_BYTES: u64 = 48 << 10;
const TABLE_BYTES: u64 = 24 << 10;
const BLOB_BYTES: usize = 2 << 10;

/// What is told, and where.
#[derive(Clone, Debug)]
pub struct Plug {
    /// The database, on the disk that may lose power. It is made if it is not there.
    pub dir: PathBuf,
    /// What was acknowledged, a line for each commit, on a disk that does not. It is made if it is not there.
    pub acknowledged: PathBuf,
    /// Which stories. The same as before, or nothing will be as expected.
    pub seed: u64,
    /// How many commit at a time.
    pub writers: u32,
    /// Each writer stops after so many.
    pub commits: u64,
    /// All stop after so long.
    pub time: Duration,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Commits acknowledged by those before.
    pub acknowledged_before: u64,
    /// Commits that were there.
    pub found: u64,
    /// Commits acknowledged since.
    pub acknowledged: u64,
}

/// Why it ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is there is not what should be: the one thing that must never happen.
    #[error("{}: {wrong}", .dir.display())]
    Wrong {
        /// The database.
        dir: PathBuf,
        /// In what way.
        wrong: Wrong,
    },
    /// The database failed. What was acknowledged before is not affected by that.
    #[error("{}: {error}", .dir.display())]
    Engine {
        /// The database.
        dir: PathBuf,
        /// Why.
        error: seawall_engine::Error,
    },
    /// The file of what was acknowledged could not be read or written.
    #[error("cannot {operation} {}: {error}", .path.display())]
    Acknowledged {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Plug {
    /// Opens the database, looks whether everything that was acknowledged is there, and goes on from there.
    ///
    /// # Errors
    /// [`Error::Wrong`] if something is lost, invented or different.
    pub fn run(&self) -> Result<Outcome, Error> {
        let book = Book::open(&self.acknowledged)?;
        let db = self.open()?;
        let mut outcome = Outcome::default();
        let mut stories = Vec::new();
        for writer in 0..self.writers {
            let (story, acknowledged) = (Story::new(self.seed, writer), book.known(writer));
            let found = story.check(&db, acknowledged).map_err(|wrong| self.wrong(wrong))?;
            if found > acknowledged {
                // What was read once is as good as acknowledged; and if the plug is pulled again before this writer hears
                // of anything, one more may be under way than the book knows.
                book.note(writer, found)?;
            }
            outcome.acknowledged_before += acknowledged;
            outcome.found += found;
            stories.push((story, found));
        }
        outcome.acknowledged = self.tell(&db, &book, &stories)?;
        db.close().map_err(|error| self.engine(error))?;
        Ok(outcome)
    }

    fn open(&self) -> Result<Db, Error> {
        let size = SegmentSize::new(SEGMENT_BYTES).expect("it is a size segments may have");
        let builder = Db::builder(&self.dir).segment_size(size).memtable_bytes(MEMTABLE_BYTES);
        let opened = builder.table_bytes(TABLE_BYTES).blob_bytes(Some(BLOB_BYTES)).open();
        opened.map_err(|error| self.engine(error))
    }

    /// All writers at once, each from where it was; how many commits were acknowledged.
    fn tell(&self, db: &Db, book: &Book, stories: &[(Story, u64)]) -> Result<u64, Error> {
        let (until, stop) = (Instant::now() + self.time, &AtomicBool::new(false));
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let writers: Vec<_> = stories
                .iter()
                .map(|(story, from)| scope.spawn(move || self.write(db, book, story, *from, until, stop)))
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        outcomes.into_iter().sum()
    }

    fn write(
        &self,
        db: &Db,
        book: &Book,
        story: &Story,
        from: u64,
        until: Instant,
        stop: &AtomicBool,
    ) -> Result<u64, Error> {
        let mut written = 0;
        let told = (|| {
            let keyspace = db.keyspace(&story.keyspace()).map_err(|error| self.engine(error))?;
            while written < self.commits && Instant::now() < until && !stop.load(Ordering::Relaxed) {
                let mut batch = db.batch();
                story.write(from + written, &keyspace, &mut batch);
                batch.commit_with(CommitLevel::Local).map_err(|error| self.engine(error))?;
                written += 1;
                book.note(story.writer(), from + written)?;
            }
            Ok(written)
        })();
        if told.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        told
    }

    fn engine(&self, error: seawall_engine::Error) -> Error {
        Error::Engine { dir: self.dir.clone(), error }
    }

    fn wrong(&self, wrong: Wrong) -> Error {
        match wrong {
            Wrong::Engine(error) => self.engine(error),
            wrong => Error::Wrong { dir: self.dir.clone(), wrong },
        }
    }
}

/// How many commits each writer was told of, by a file of lines: a writer's number and its commits so far.
struct Book {
    file: File,
    path: PathBuf,
    known: BTreeMap<u32, u64>,
}

impl Book {
    fn open(path: &Path) -> Result<Self, Error> {
        let failed = |operation| move |error| Error::Acknowledged { operation, path: path.to_owned(), error };
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = opened.map_err(failed("open"))?;
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text)).map_err(failed("read"))?;
        let mut known = BTreeMap::new();
        for line in text.lines() {
            let numbers =
                line.split_once(' ').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u64>().ok()?)));
            let (writer, commits) =
                numbers.ok_or_else(|| failed("read a line of")(io::Error::from(io::ErrorKind::InvalidData)))?;
            let most = known.entry(writer).or_insert(0);
            *most = commits.max(*most);
        }
        Ok(Self { file, path: path.to_owned(), known })
    }

    fn known(&self, writer: u32) -> u64 {
        self.known.get(&writer).copied().unwrap_or(0)
    }

    /// One write to the end of the file: it is there whole when this process is killed afterwards.
    fn note(&self, writer: u32, commits: u64) -> Result<(), Error> {
        let line = format!("{writer} {commits}\n");
        let failed = |error| Error::Acknowledged { operation: "write", path: self.path.clone(), error };
        (&self.file).write_all(line.as_bytes()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plug(folder: &Path) -> Plug {
        Plug {
            dir: folder.join("data"),
            acknowledged: folder.join("acknowledged"),
            seed: 3,
            writers: 3,
            commits: 150,
            time: Duration::from_secs(60),
        }
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let first = plug(folder.path()).run().unwrap();
        assert_eq!(first, Outcome { acknowledged_before: 0, found: 0, acknowledged: 450 });
        let second = plug(folder.path()).run().unwrap();
        assert_eq!(second, Outcome { acknowledged_before: 450, found: 450, acknowledged: 450 });
    }

    #[test]
    fn a_database_that_is_older_than_what_was_acknowledged_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        plug(folder.path()).run().unwrap();
        std::fs::remove_dir_all(folder.path().join("data")).unwrap();
        let words = plug(folder.path()).run().unwrap_err().to_string();
        assert!(
            words.ends_with("writer 0 was told of 150 commits, and 0 are there: acknowledged commits are lost"),
            "{words}"
        );
    }

    #[test]
    fn a_commit_that_was_found_and_not_acknowledged_is_known_when_the_next_one_is_not_acknowledged_either() {
        let folder = tempfile::tempdir().unwrap();
        let run = |commits| Plug { writers: 1, commits, ..plug(folder.path()) }.run().unwrap();
        let forget_last = || {
            let path = folder.path().join("acknowledged");
            let book = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, &book[..book.trim_end().rfind('\n').unwrap() + 1]).unwrap();
        };
        run(3);
        forget_last();
        assert_eq!(run(1), Outcome { acknowledged_before: 2, found: 3, acknowledged: 1 });
        forget_last();
        assert_eq!(run(1), Outcome { acknowledged_before: 3, found: 4, acknowledged: 1 });
    }

    #[test]
    fn a_book_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("acknowledged"), "0 12\nsomething\n").unwrap();
        let words = plug(folder.path()).run().unwrap_err().to_string();
        assert!(words.starts_with("cannot read a line of ") && words.contains("acknowledged"), "{words}");
    }
}
