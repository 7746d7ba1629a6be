//! Telling stories on a real disk until the plug is pulled, and looking at what is there when it is back. What was
//! acknowledged is written down in a file elsewhere, where nothing is pulled.

mod book;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use seawall_engine::{CommitLevel, Db};
use seawall_wal::SegmentSize;
use seawall_wal::storage::{DurableWrite, IoPath};

use crate::story::{Story, Wrong};
use book::{Book, Refusal};
pub use book::{Subject, Unfit};

/// Small, so that few commits meet switches of segments, memtables written out, merges and blob files.
const SEGMENT_BYTES: u32 = 64 << 10;
const MEMTABLE_BYTES: u64 = 48 << 10;
const TABLE_BYTES: u64 = 24 << 10;
const BLOB_BYTES: usize = 2 << 10;
/// How often it says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// What is told, and where.
#[derive(Clone, Debug)]
pub struct Plug {
    /// The database, on the disk that may lose power. It is made if it is not there.
    pub dir: PathBuf,
    /// What was acknowledged, a line for each commit, on a disk that does not. It is made if it is not there.
    pub acknowledged: PathBuf,
    /// Which stories. The same as before.
    pub seed: u64,
    /// How many commit at a time. As many as before.
    pub writers: u32,
    /// How the log is written; if none is given the log chooses, when it has written much.
    pub write_by: Option<DurableWrite>,
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

/// What it says on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The last line of the file of what was acknowledged was not whole, and is cut off.
    LineCut {
        /// How long it was.
        bytes: usize,
    },
    /// What is there is what it should be.
    Checked {
        /// Commits acknowledged by those before.
        acknowledged: u64,
        /// Commits that are there.
        found: u64,
        /// Bytes at the end of the log that were no whole record, and are cut off.
        cut_bytes: u64,
    },
    /// So many commits were acknowledged since then. Said every second.
    Acknowledged(u64),
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
    /// The file of what was acknowledged is not the one that belongs here. Nothing was written.
    #[error("cannot use {}: {unfit}", .path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why not.
        unfit: Unfit,
    },
    /// The log cannot be written as was asked for.
    #[error("this machine does not grant io_uring, which {way} needs")]
    NoRing {
        /// How it was to be written.
        way: DurableWrite,
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
    /// Opens the database, looks whether everything that was acknowledged is there, and goes on from there. `says` hears of it
    /// on the way.
    ///
    /// # Errors
    /// [`Error::Wrong`] if something is lost, invented or different; [`Error::Unfit`] if nothing can be said of that.
    pub fn run(&self, mut says: impl FnMut(Said)) -> Result<Outcome, Error> {
        let mut book = Book::open(&self.acknowledged).map_err(|refusal| match refusal {
            Refusal::Io { operation, error } => self.book_failed(operation)(error),
            Refusal::Unfit(unfit) => self.unfit(unfit),
        })?;
        if book.torn() > 0 {
            says(Said::LineCut { bytes: book.torn() });
        }
        if let Some(Subject { seed, writers, .. }) = book.subject().filter(|subject| !self.is_about(subject)) {
            return Err(self.unfit(Unfit::OtherStories { seed, writers }));
        }
        let db = self.open()?;
        self.match_up(&mut book, &db)?;
        let mut outcome = Outcome::default();
        let mut stories = Vec::new();
        for writer in 0..self.writers {
            let (story, acknowledged) = (Story::new(self.seed, writer), book.known(writer));
            let found = story.check(&db, acknowledged).map_err(|wrong| self.wrong(wrong))?;
            if found > acknowledged {
                // What was read once is as good as acknowledged; and if the plug is pulled again before this writer hears
                // of anything, one more may be under way than the book knows.
                book.note(writer, found).map_err(self.book_failed("write"))?;
            }
            outcome.acknowledged_before += acknowledged;
            outcome.found += found;
            stories.push((story, found));
        }
        let recovery = db.recovery();
        let cut_bytes = recovery.cut_to.offset().saturating_sub(recovery.end.lsn.offset());
        says(Said::Checked { acknowledged: outcome.acknowledged_before, found: outcome.found, cut_bytes });
        outcome.acknowledged = self.tell(&db, &book, &stories, says)?;
        db.close().map_err(|error| self.engine(error))?;
        Ok(outcome)
    }

    fn is_about(&self, subject: &Subject) -> bool {
        (subject.seed, subject.writers) == (self.seed, self.writers)
    }

    /// That the book is about this database. It is begun if it is new, and so is the database; and begun again if nobody was
    /// told of anything, and the database was made again since. A database with nothing in it, where something was
    /// acknowledged, is not another one: it has lost everything.
    fn match_up(&self, book: &mut Book, db: &Db) -> Result<(), Error> {
        let subject = Subject { seed: self.seed, writers: self.writers, cluster: db.cluster() };
        let (dir, is_empty) = (self.dir.clone(), db.keyspaces().is_empty());
        match book.subject() {
            Some(known) if known == subject => Ok(()),
            Some(known) if !is_empty => {
                Err(self.unfit(Unfit::OtherDatabase { file: known.cluster, dir, there: subject.cluster }))
            }
            None if !is_empty => Err(self.unfit(Unfit::Lost { dir })),
            _ if book.acknowledged() > 0 => Ok(()),
            _ => book.begin(subject).map_err(self.book_failed("write")),
        }
    }

    fn open(&self) -> Result<Db, Error> {
        let size = SegmentSize::new(SEGMENT_BYTES).expect("it is a size segments may have");
        let builder = Db::builder(&self.dir).segment_size(size).memtable_bytes(MEMTABLE_BYTES);
        let opened = builder.table_bytes(TABLE_BYTES).blob_bytes(Some(BLOB_BYTES)).open();
        let db = opened.map_err(|error| self.engine(error))?;
        if let Some(way) = self.write_by {
            if way.needs_ring() && db.stats().io_path != IoPath::Uring {
                return Err(Error::NoRing { way });
            }
            db.log().write_by(way);
        }
        Ok(db)
    }

    /// All writers at once, each from where it was; how many commits were acknowledged.
    fn tell(&self, db: &Db, book: &Book, stories: &[(Story, u64)], mut says: impl FnMut(Said)) -> Result<u64, Error> {
        let progress = &Progress {
            until: Instant::now() + self.time,
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
        };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let (running, ended) = mpsc::channel::<()>();
            let writers: Vec<_> = stories
                .iter()
                .map(|(story, from)| {
                    let running = running.clone();
                    scope.spawn(move || {
                        let _until_it_ends = running;
                        self.write(db, book, story, *from, progress)
                    })
                })
                .collect();
            drop(running);
            while ended.recv_timeout(SAY_EVERY) == Err(RecvTimeoutError::Timeout) {
                says(Said::Acknowledged(progress.acknowledged.load(Ordering::Relaxed)));
            }
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        outcomes.into_iter().collect::<Result<(), Error>>()?;
        Ok(progress.acknowledged.load(Ordering::Relaxed))
    }

    fn write(&self, db: &Db, book: &Book, story: &Story, from: u64, progress: &Progress) -> Result<(), Error> {
        let told = (|| {
            let keyspace = db.keyspace(&story.keyspace()).map_err(|error| self.engine(error))?;
            for number in (from..).take(usize::try_from(self.commits).unwrap_or(usize::MAX)) {
                if Instant::now() >= progress.until || progress.stop.load(Ordering::Relaxed) {
                    break;
                }
                let mut batch = db.batch();
                story.write(number, &keyspace, &mut batch);
                batch.commit_with(CommitLevel::Local).map_err(|error| self.engine(error))?;
                book.note(story.writer(), number + 1).map_err(self.book_failed("write"))?;
                progress.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })();
        if told.is_err() {
            progress.stop.store(true, Ordering::Relaxed);
        }
        told
    }

    fn unfit(&self, unfit: Unfit) -> Error {
        Error::Unfit { path: self.acknowledged.clone(), unfit }
    }

    fn book_failed(&self, operation: &'static str) -> impl Fn(io::Error) -> Error + '_ {
        move |error| Error::Acknowledged { operation, path: self.acknowledged.clone(), error }
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

/// How far all writers are, and until when they go on.
struct Progress {
    until: Instant,
    /// One of them cannot go on.
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plug(folder: &Path) -> Plug {
        Plug {
            dir: folder.join("data"),
            acknowledged: folder.join("acknowledged"),
            seed: 3,
            writers: 3,
            write_by: None,
            commits: 150,
            time: Duration::from_secs(60),
        }
    }

    fn run(plug: &Plug) -> Outcome {
        plug.run(|_| {}).unwrap()
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let first = run(&plug(folder.path()));
        assert_eq!(first, Outcome { acknowledged_before: 0, found: 0, acknowledged: 450 });
        let second = run(&plug(folder.path()));
        assert_eq!(second, Outcome { acknowledged_before: 450, found: 450, acknowledged: 450 });
    }

    #[test]
    fn a_database_that_is_older_than_what_was_acknowledged_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        run(&plug(folder.path()));
        std::fs::remove_dir_all(folder.path().join("data")).unwrap();
        let words = plug(folder.path()).run(|_| {}).unwrap_err().to_string();
        assert!(
            words.ends_with("writer 0 was told of 150 commits, and 0 are there: acknowledged commits are lost"),
            "{words}"
        );
    }

    #[test]
    fn a_commit_that_was_found_and_not_acknowledged_is_known_when_the_next_one_is_not_acknowledged_either() {
        let folder = tempfile::tempdir().unwrap();
        let run = |commits| run(&Plug { writers: 1, commits, ..plug(folder.path()) });
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

    /// Why a file is refused; and that nothing was written.
    fn refused(plug: &Plug) -> Unfit {
        let before = std::fs::read(&plug.acknowledged).unwrap_or_default();
        match plug.run(|said| panic!("{said:?}")) {
            Err(Error::Unfit { unfit, .. }) => {
                assert_eq!(std::fs::read(&plug.acknowledged).unwrap(), before);
                unfit
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn another_seed_and_another_number_of_writers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        run(&plug(folder.path()));
        for other in [Plug { seed: 4, ..plug(folder.path()) }, Plug { writers: 2, ..plug(folder.path()) }] {
            assert_eq!(refused(&other), Unfit::OtherStories { seed: 3, writers: 3 });
        }
    }

    #[test]
    fn a_file_about_another_database_and_a_lost_one_are_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &other] {
            run(&plug(folder.path()));
        }
        let foreign = Plug { acknowledged: other.path().join("acknowledged"), ..plug(one.path()) };
        assert!(matches!(refused(&foreign), Unfit::OtherDatabase { .. }));
        let lost = Plug { acknowledged: one.path().join("none"), ..plug(one.path()) };
        assert_eq!(refused(&lost), Unfit::Lost { dir: one.path().join("data") });
        assert_eq!(run(&plug(one.path())).found, 450, "the right one is as it was");
    }

    #[test]
    fn a_database_that_was_made_and_lost_before_anything_was_acknowledged_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        run(&Plug { commits: 0, time: Duration::ZERO, ..plug(folder.path()) });
        std::fs::remove_dir_all(folder.path().join("data")).unwrap();
        assert_eq!(run(&plug(folder.path())).acknowledged, 450);
        assert_eq!(run(&plug(folder.path())).acknowledged_before, 450);
    }

    #[test]
    fn it_says_what_it_found_what_it_cut_and_each_second_how_far_it_is() {
        let folder = tempfile::tempdir().unwrap();
        run(&plug(folder.path()));
        let path = folder.path().join("acknowledged");
        let mut book = std::fs::read(&path).unwrap();
        book.extend_from_slice(b"1 15");
        std::fs::write(&path, book).unwrap();
        let mut said = Vec::new();
        let long = Plug { commits: u64::MAX, time: 3 * SAY_EVERY, ..plug(folder.path()) };
        let outcome = long.run(|what| said.push(what)).unwrap();
        let checked = Said::Checked { acknowledged: 450, found: 450, cut_bytes: 0 };
        assert_eq!(said[..2], [Said::LineCut { bytes: 4 }, checked]);
        let counts: Vec<u64> = said[2..]
            .iter()
            .map(|said| match said {
                Said::Acknowledged(commits) => *commits,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(!counts.is_empty() && counts.is_sorted() && counts.iter().all(|count| *count <= outcome.acknowledged));
    }

    #[test]
    fn however_the_log_is_written_it_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        for (number, way) in (0..).zip(DurableWrite::ALL) {
            match (Plug { write_by: Some(way), ..plug(folder.path()) }).run(|_| {}) {
                Ok(outcome) => assert_eq!(outcome.found, number * 450),
                Err(Error::NoRing { way }) => assert!(way.needs_ring()),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
