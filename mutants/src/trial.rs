//! One run of one test, in a process of its own and in bounded time, with a bug planted or without.

use std::io::{Read, Seek};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::binaries::Binary;
use crate::verdict::Ended;

/// In the environment of a test: the bug to plant.
pub const VARIABLE: &str = "SEAWALL_MUTANT";
/// How long one test may take. The slowest takes seconds; with a bug it may wait for what will never be.
const AT_MOST: Duration = Duration::from_secs(120);
/// How often to look whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What one run came to.
#[derive(Debug)]
pub struct Trial {
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub took: Duration,
    /// All that it said.
    pub said: String,
}

/// Runs one test.
///
/// # Errors
/// If the binary cannot be run, or what it says cannot be kept.
pub fn run(binary: &Binary, test: &str, bug: Option<&str>) -> Result<Trial> {
    // In a file, so that nobody has to read while the test runs.
    let mut said = tempfile::tempfile().context("cannot make a file for what a test says")?;
    let mut command = Command::new(&binary.path);
    command.current_dir(&binary.folder).args(["--exact", test]).stdin(Stdio::null());
    command.stdout(said.try_clone()?).stderr(said.try_clone()?).env_remove(VARIABLE);
    if let Some(bug) = bug {
        command.env(VARIABLE, bug);
    }
    let began = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot run {}", binary.path.display()))?;
    let in_time = ended_in_time(child)?;
    let took = began.elapsed();
    let mut text = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut text)?;
    let said = String::from_utf8_lossy(&text).into_owned();
    let ended = if in_time { Ended::from_output(&said) } else { Ended::TooLate };
    Ok(Trial { ended, took, said })
}

/// Waits for it, and ends it if it does not end by itself.
fn ended_in_time(mut child: Child) -> Result<bool> {
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > AT_MOST {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(true)
}
