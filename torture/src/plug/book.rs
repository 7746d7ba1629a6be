//! The file of what was acknowledged: whose commits it counts, and how many each writer was told of. It is what the database
//! is held against, so a file that is lost, damaged or about something else is refused rather than believed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use seawall_wal::ClusterId;

/// How the first line begins: what the file is, and its format.
const MAGIC: &str = "seawall-acknowledged 1 ";

/// What commits a file counts: its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Which stories.
    pub seed: u64,
    /// How many writers.
    pub writers: u32,
    /// Of which database.
    pub cluster: ClusterId,
}

/// Why a file is not taken for what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is another file, or damaged.
    #[error("its line {line} is none that this command writes: it is another file, or damaged")]
    NotOurs {
        /// Counted from 1.
        line: usize,
    },
    /// It is about other commits than were asked for.
    #[error("it was begun with seed {seed} and {writers} writers")]
    OtherStories {
        /// Of the file.
        seed: u64,
        /// Of the file.
        writers: u32,
    },
    /// It is about another database.
    #[error("it is about the database {file}, and {} has {there}", .dir.display())]
    OtherDatabase {
        /// The cluster the file is about.
        file: ClusterId,
        /// The directory.
        dir: PathBuf,
        /// The cluster that is there.
        there: ClusterId,
    },
    /// There is nothing in it, and there is something in the database.
    #[error("there is nothing in it, and there is a database with keyspaces in {}", .dir.display())]
    Lost {
        /// The directory.
        dir: PathBuf,
    },
}

/// The file, open: a line that says what it is about, and lines with a writer's number and its commits so far.
pub(super) struct Book {
    file: File,
    subject: Option<Subject>,
    known: BTreeMap<u32, u64>,
    /// Bytes of a last line that was not whole.
    torn: usize,
}

/// Why it could not be opened.
pub(super) enum Refusal {
    Io { operation: &'static str, error: io::Error },
    Unfit(Unfit),
}

impl Book {
    /// Opens it, or makes it. A last line that is not whole was being written when its writer ended: nobody was told of that
    /// commit, and it is cut off.
    pub(super) fn open(path: &Path) -> Result<Self, Refusal> {
        let failed = |operation| move |error| Refusal::Io { operation, error };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let (subject, known) = parse(&bytes[..whole], &bytes[whole..]).map_err(Refusal::Unfit)?;
        let torn = bytes.len() - whole;
        if torn > 0 {
            file.set_len(whole as u64).map_err(failed("cut the last line of"))?;
        }
        Ok(Self { file, subject, known, torn })
    }

    /// What it is about, if it was begun.
    pub(super) fn subject(&self) -> Option<Subject> {
        self.subject
    }

    /// Bytes of a torn line that opening it cut off.
    pub(super) fn torn(&self) -> usize {
        self.torn
    }

    /// Of how many commits anybody was told.
    pub(super) fn acknowledged(&self) -> u64 {
        self.known.values().sum()
    }

    /// Of how many commits a writer was told.
    pub(super) fn known(&self, writer: u32) -> u64 {
        self.known.get(&writer).copied().unwrap_or(0)
    }

    /// Says what it is about from here on. Nobody was told of any commit.
    pub(super) fn begin(&mut self, subject: Subject) -> io::Result<()> {
        assert_eq!(self.acknowledged(), 0, "what was acknowledged is not forgotten");
        self.file.set_len(0)?;
        self.file.write_all(format!("{subject}\n").as_bytes())?;
        self.subject = Some(subject);
        Ok(())
    }

    /// One write to the end of the file: it is there whole when this process is killed afterwards.
    pub(super) fn note(&self, writer: u32, commits: u64) -> io::Result<()> {
        (&self.file).write_all(format!("{writer} {commits}\n").as_bytes())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, writers, cluster } = self;
        write!(f, "{MAGIC}seed {seed} writers {writers} cluster {cluster}")
    }
}

impl Subject {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix(MAGIC)?.split(' ').collect();
        let ["seed", seed, "writers", writers, "cluster", cluster] = words[..] else { return None };
        Some(Self { seed: seed.parse().ok()?, writers: writers.parse().ok()?, cluster: cluster.parse().ok()? })
    }
}

type Parsed = (Option<Subject>, BTreeMap<u32, u64>);

/// What whole lines say, and what is behind them may be the beginning of.
fn parse(whole: &[u8], torn: &[u8]) -> Result<Parsed, Unfit> {
    let text = String::from_utf8_lossy(whole);
    let (mut lines, mut known) = (text.lines(), BTreeMap::new());
    let Some(first) = lines.next() else {
        // Of another file nothing is cut off.
        let compared = torn.len().min(MAGIC.len());
        return if torn[..compared] == MAGIC.as_bytes()[..compared] {
            Ok((None, known))
        } else {
            Err(Unfit::NotOurs { line: 1 })
        };
    };
    let subject = Subject::parse(first).ok_or(Unfit::NotOurs { line: 1 })?;
    for (line, number) in lines.zip(2..) {
        let numbers = line.split_once(' ').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u64>().ok()?)));
        let (writer, commits) =
            numbers.filter(|(writer, _)| *writer < subject.writers).ok_or(Unfit::NotOurs { line: number })?;
        let most = known.entry(writer).or_insert(0);
        *most = commits.max(*most);
    }
    Ok((Some(subject), known))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

    fn text(lines: &str) -> String {
        format!("{}\n{lines}", Subject { seed: 3, writers: 2, cluster: CLUSTER })
    }

    fn opened(content: &[u8]) -> (Result<Book, Unfit>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acknowledged");
        std::fs::write(&path, content).unwrap();
        let book = Book::open(&path).map_err(|refusal| match refusal {
            Refusal::Unfit(unfit) => unfit,
            Refusal::Io { operation, error } => panic!("cannot {operation} it: {error}"),
        });
        (book, std::fs::read(&path).unwrap())
    }

    #[test]
    fn what_was_noted_is_read_again_and_the_first_line_says_what_it_is_about() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acknowledged");
        let mut book = Book::open(&path).ok().unwrap();
        assert_eq!((book.subject(), book.acknowledged()), (None, 0));
        let subject = Subject { seed: u64::MAX, writers: 64, cluster: CLUSTER };
        book.begin(subject).unwrap();
        [(0, 1), (63, 4), (0, 2)].into_iter().for_each(|(writer, commits)| book.note(writer, commits).unwrap());
        let book = Book::open(&path).ok().unwrap();
        assert_eq!((book.subject(), book.torn(), book.acknowledged()), (Some(subject), 0, 6));
        assert_eq!((book.known(0), book.known(1), book.known(63)), (2, 0, 4));
    }

    #[test]
    fn a_torn_last_line_is_cut_wherever_it_was_torn_and_nothing_before_it() {
        let (before, line) = (text("0 11\n1 7\n"), "0 12");
        for len in 1..=line.len() {
            let (book, left) = opened(format!("{before}{}", &line[..len]).as_bytes());
            let book = book.ok().unwrap();
            assert_eq!((book.torn(), book.known(0), book.known(1)), (len, 11, 7));
            assert_eq!(left, before.as_bytes());
        }
        let (book, left) = opened(format!("{before}\0\0\0").as_bytes());
        assert_eq!((book.ok().unwrap().torn(), left.as_slice()), (3, before.as_bytes()));
        let first = text("");
        for len in 1..first.len() {
            let (book, left) = opened(&first.as_bytes()[..len]);
            assert_eq!((book.ok().unwrap().subject(), left.as_slice()), (None, b"".as_slice()));
        }
    }

    #[test]
    fn another_file_is_refused_and_left_as_it_is() {
        let damaged = [text("0 12\nsomething\n"), text("0 12\n2 1\n"), text("0 12\n0 x\n0 13\n")];
        let others = ["0 12\n".to_owned(), "a list\nof things".to_owned(), "no line".to_owned(), "\n".to_owned()];
        for (content, line) in damaged.into_iter().map(|text| (text, 3)).chain(others.map(|text| (text, 1))) {
            let (book, left) = opened(content.as_bytes());
            assert_eq!(book.err(), Some(Unfit::NotOurs { line }), "{content:?}");
            assert_eq!(left, content.as_bytes());
        }
    }
}
