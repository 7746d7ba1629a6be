//! `seawall torture plug` as a process: it writes on the disk under test, checks what is there when it starts, and keeps its
//! book of what was acknowledged on another disk.

use std::fmt;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// With which it ends when an acknowledged commit is lost, or anything else is not as it was committed.
pub(crate) const WRONG: i32 = 12;

/// A machine that does much else at the same time is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// A database on the disk under test, and the book about it.
pub(crate) struct Plug {
    dir: PathBuf,
    elsewhere: tempfile::TempDir,
    bug: Option<&'static str>,
}

impl Plug {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, elsewhere: tempfile::tempdir().unwrap(), bug: None }
    }

    /// The program that is started from here on has this bug, as `wal/src/mutant.rs` calls it, or none.
    pub(crate) fn plant(&mut self, bug: Option<&'static str>) {
        self.bug = bug;
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn book(&self) -> PathBuf {
        self.elsewhere.path().join("acknowledged")
    }

    /// Checks, and writes until it is stopped. It is stopped when it is dropped.
    pub(crate) fn start(&self) -> Running {
        self.spawn(&mut self.command())
    }

    /// Checks, and writes so many commits per writer; how it ended.
    pub(crate) fn run(&self, commits: u64) -> Ended {
        self.spawn(self.command().args(["--commits", &commits.to_string()])).end()
    }

    /// As [`run`](Self::run), when nothing stands against it; everything is as it was committed.
    pub(crate) fn go_on(&self, commits: u64) -> Report {
        let ended = self.run(commits);
        assert_eq!(ended.code, Some(0), "{}", ended.words);
        assert_eq!(ended.report.lost(), 0, "{:?}", ended.report);
        ended.report
    }

    fn spawn(&self, command: &mut Command) -> Running {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running { child: Some(child), book: self.book(), book_len: self.book_len() }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command.args(["--json", "torture", "plug"]).arg(&self.dir).arg("--acknowledged").arg(self.book());
        if let Some(bug) = self.bug {
            command.env("SEAWALL_MUTANT", bug);
        }
        command
    }

    fn book_len(&self) -> u64 {
        fs::metadata(self.book()).map_or(0, |book| book.len())
    }
}

/// It is writing.
pub(crate) struct Running {
    child: Option<Child>,
    book: PathBuf,
    book_len: u64,
}

impl Running {
    /// Returns when so many commits were acknowledged since it started.
    pub(crate) fn wait_until_acknowledged(&mut self, commits: usize) {
        if !self.has_acknowledged(commits) {
            let ended = self.ended();
            panic!("it ended by itself, with {:?}: {}", ended.code, ended.words);
        }
    }

    /// As [`wait_until_acknowledged`](Self::wait_until_acknowledged), where it may end before; whether it has not.
    pub(crate) fn has_acknowledged(&mut self, commits: usize) -> bool {
        let until = Instant::now() + PATIENCE;
        while self.acknowledged() < commits {
            if !self.is_running() {
                return false;
            }
            assert!(Instant::now() < until, "fewer than {commits} commits in {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn acknowledged(&self) -> usize {
        let Ok(mut book) = fs::File::open(&self.book) else { return 0 };
        let mut lines = Vec::new();
        book.seek(SeekFrom::Start(self.book_len)).and_then(|_| book.read_to_end(&mut lines)).unwrap();
        lines.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn end(mut self) -> Ended {
        let until = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < until, "it does not end within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.ended()
    }

    /// `kill -9`, if it has not ended already.
    pub(crate) fn kill(mut self) -> Ended {
        self.child.as_mut().expect("it ends once").kill().unwrap();
        self.ended()
    }

    fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    fn ended(&mut self) -> Ended {
        let child = self.child.take().expect("it ends once");
        Ended::from(child.wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// By these signals it may end: `SIGKILL`, from the test, and `SIGBUS`, when a page of a mapped table is read for the first
/// time and the disk is gone.
const ENDS: [i32; 2] = [9, 7];

/// How it ended.
pub(crate) struct Ended {
    /// With which code, if it was not killed.
    pub(crate) code: Option<i32>,
    /// What it said on the way, and of an error: a JSON document in each line.
    pub(crate) words: String,
    /// What it said of success.
    pub(crate) report: Report,
}

/// Its report, zero where it made none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) acknowledged_before: u64,
    pub(crate) found: u64,
    pub(crate) acknowledged: u64,
}

impl Report {
    fn lost(&self) -> u64 {
        self.acknowledged_before.saturating_sub(self.found)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commits acknowledged, {} lost", self.acknowledged_before, self.lost())
    }
}

impl Ended {
    /// The kind of its error, and what it advises.
    pub(crate) fn error(&self) -> (String, String) {
        let last = self.words.lines().last().unwrap_or_default();
        let error: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|why| panic!("{why}: {}", self.words));
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        (text("kind"), format!("{}; {}", text("message"), text("hint")))
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let ended =
            output.status.code().is_some() || output.status.signal().is_some_and(|signal| ENDS.contains(&signal));
        assert!(ended, "{}", output.status);
        let report: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
        let number = |field: &str| report.as_ref().and_then(|report| report[field].as_u64()).unwrap_or(0);
        let report = Report {
            acknowledged_before: number("acknowledged_before"),
            found: number("found"),
            acknowledged: number("acknowledged"),
        };
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), words, report }
    }
}
