//! What the run of one test says about the bug that was planted in it. Only a test that ran and failed has noticed.

use std::fmt;

/// How one test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ran, and passed.
    Passed,
    /// It ran, and failed.
    Failed,
    /// It was not over in time.
    TooLate,
    /// The binary has no test of that name, or ended without saying what became of it.
    NotRun,
    /// There is no bug of that name.
    NoSuchBug,
}

impl Ended {
    /// By what the test binary said on its way out; `said` is all of it.
    pub fn from_output(said: &str) -> Self {
        if said.contains("is no bug") {
            return Self::NoSuchBug;
        }
        let result = |words: &str| said.lines().any(|line| line.starts_with("test result: ") && line.contains(words));
        match (result("ok. 1 passed; 0 failed;"), result("FAILED. 0 passed; 1 failed;")) {
            (true, false) => Self::Passed,
            (false, true) => Self::Failed,
            _ => Self::NotRun,
        }
    }
}

/// What became of a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The test passes without the bug and fails with it.
    Killed,
    /// The test passes with the bug.
    Survived,
    /// The test did not pass without the bug, or did not come to an end with it: nothing is shown.
    Unclear(Ended),
}

/// From the test's run without the bug and the one with it.
pub fn judge(without: Ended, with: Ended) -> Verdict {
    match (without, with) {
        (Ended::Passed, Ended::Failed) => Verdict::Killed,
        (Ended::Passed, Ended::Passed) => Verdict::Survived,
        (Ended::Passed, ended) | (ended, _) => Verdict::Unclear(ended),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Killed => "killed",
            Self::Survived => "SURVIVED",
            Self::Unclear(Ended::Failed) => "FAILS WITHOUT",
            Self::Unclear(Ended::TooLate) => "TOO LATE",
            Self::Unclear(Ended::NoSuchBug) => "NO SUCH BUG",
            Self::Unclear(Ended::NotRun | Ended::Passed) => "NOT RUN",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_ran_and_failed_has_noticed() {
        let run = |said| Ended::from_output(said);
        let passed =
            run("\nrunning 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured;");
        let failed = run("running 1 test\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored;");
        let renamed = run("running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 9 filtered out;");
        let unknown =
            run("SEAWALL_MUTANT=wal:x is no bug that can be planted\ntest result: FAILED. 0 passed; 1 failed;");
        let died = run("running 1 test\n");
        assert_eq!((passed, failed, renamed), (Ended::Passed, Ended::Failed, Ended::NotRun));
        assert_eq!((unknown, died), (Ended::NoSuchBug, Ended::NotRun));
        assert_eq!(judge(passed, failed), Verdict::Killed);
        assert_eq!(judge(passed, passed), Verdict::Survived);
        for with in [renamed, unknown, died, Ended::TooLate] {
            assert_eq!(judge(passed, with), Verdict::Unclear(with));
        }
        assert_eq!(judge(failed, failed), Verdict::Unclear(Ended::Failed));
    }
}
