//! A machine: a disk that fails, the program that writes on it, and what the program acknowledged, elsewhere.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use seawall_disks::fuse::{Effect, Fault, FuseDisk, Operation, PowerLoss};

/// Nothing takes as long on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How the program ends when what is there is not what it acknowledged.
pub(crate) const WRONG: i32 = 12;

/// A disk, and what programs that wrote on it have acknowledged.
pub(crate) struct Machine {
    pub(crate) disk: FuseDisk,
    /// On a disk that does not fail.
    elsewhere: tempfile::TempDir,
}

/// How a run ended by itself.
pub(crate) enum End {
    Well(Figures),
    /// With an error that it said.
    Failed {
        code: i32,
        words: String,
    },
}

/// What a run says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) acknowledged_before: u64,
}

/// A program under way, killed when nobody waits for it any more.
struct Running(Child);

impl Machine {
    /// `None`, and a line that says why, where there can be no such disk.
    pub(crate) fn start() -> Option<Self> {
        if let Some(missing) = FuseDisk::missing() {
            let _ = writeln!(io::stderr(), "skipped, nothing was tried: {missing}");
            return None;
        }
        let disk = FuseDisk::mount().expect("a disk can be mounted where nothing is missing");
        Some(Self { disk, elsewhere: tempfile::tempdir().unwrap() })
    }

    /// As if nothing had ever been written.
    pub(crate) fn begin_anew(&self) {
        self.disk.erase();
        let _ = fs::remove_file(self.acknowledged());
    }

    /// Runs until the disk was asked for so many changes of paths with this in them, ends everything there and then, and
    /// decides what of the disk is left. `false` if the run ended before, well.
    pub(crate) fn run_until_power_is_lost(&self, life: &[&str], path: &str, changes: u64, loss: PowerLoss) -> bool {
        self.disk.heal();
        self.disk.inject(Fault { path: path.into(), ..Fault::at(&Operation::CHANGES, changes, Effect::Stop) });
        let (mut running, until) = (self.spawn(life), Instant::now() + PATIENCE);
        let stopped = self.disk.wait_until_stopped(|| {
            assert!(Instant::now() < until, "neither change {changes} nor an end after {PATIENCE:?}: {}", self.words());
            running.0.try_wait().unwrap().is_none()
        });
        if stopped {
            // Killed first: what it waits for fails only when it can do nothing about it any more.
            running.0.kill().unwrap();
            self.disk.cut_power();
            let status = running.0.wait().unwrap();
            assert_eq!(status.signal(), Some(9), "it ended by itself at change {changes}: {}", self.words());
            self.disk.restore_power(loss);
        } else {
            let end = self.end(running.0.wait().unwrap());
            assert!(
                matches!(end, End::Well(_)),
                "it failed before change {changes}, without a fault: {}",
                self.words()
            );
            self.disk.lose_power(loss);
        }
        stopped
    }

    /// Runs until it ends, which it does well.
    pub(crate) fn run_to_its_end(&self, life: &[&str]) -> Figures {
        match self.run(life) {
            End::Well(figures) => figures,
            End::Failed { code, words } => panic!("it ended with {code}: {words}"),
        }
    }

    /// Runs until it ends, well or with an error that it says. What was acknowledged before was there, or this panics.
    pub(crate) fn run(&self, life: &[&str]) -> End {
        let end = self.run_and_see(life);
        if let End::Failed { code: WRONG, words } = &end {
            panic!("what is there is not what was acknowledged: {words}");
        }
        end
    }

    /// Runs until it ends, whatever it finds.
    pub(crate) fn run_and_see(&self, life: &[&str]) -> End {
        let (mut running, until) = (self.spawn(life), Instant::now() + PATIENCE);
        loop {
            if let Some(status) = running.0.try_wait().unwrap() {
                return self.end(status);
            }
            assert!(Instant::now() < until, "no end after {PATIENCE:?}: {}", self.words());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(&self, status: ExitStatus) -> End {
        match status.code() {
            Some(0) => End::Well(self.figures()),
            Some(code) => {
                let words = self.words();
                assert!(!words.contains("panicked") && !words.is_empty(), "it ended with {code}: {words}");
                End::Failed { code, words }
            }
            None => panic!("it was killed by a signal, and not by this test: {status}: {}", self.words()),
        }
    }

    fn spawn(&self, life: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command.args(["torture", "plug", "--json"]).args(life);
        command.arg("--acknowledged").arg(self.acknowledged()).arg(self.disk.path().join("data"));
        command.stdin(Stdio::null());
        command.stdout(File::create(self.said()).unwrap()).stderr(File::create(self.complained()).unwrap());
        Running(command.spawn().unwrap())
    }

    fn figures(&self) -> Figures {
        let said = fs::read_to_string(self.said()).unwrap();
        let figures: serde_json::Value = serde_json::from_str(&said).unwrap();
        let acknowledged_before = figures["acknowledged_before"].as_u64();
        Figures { acknowledged_before: acknowledged_before.unwrap_or_else(|| panic!("no figures: {said}")) }
    }

    fn words(&self) -> String {
        fs::read_to_string(self.complained()).unwrap()
    }

    fn acknowledged(&self) -> PathBuf {
        self.elsewhere.path().join("acknowledged")
    }

    fn said(&self) -> PathBuf {
        self.elsewhere.path().join("said")
    }

    fn complained(&self) -> PathBuf {
        self.elsewhere.path().join("complained")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        // It ends only when what it waits for is answered; the disk does that when it goes away.
        let _ = self.0.try_wait();
    }
}

/// How often the power fails in the storm.
pub(crate) fn storm_losses() -> u64 {
    const LOSSES: u64 = 60;
    match std::env::var("SEAWALL_POWER_LOSSES") {
        Ok(number) => number.parse().expect("SEAWALL_POWER_LOSSES is a number"),
        Err(_) => LOSSES,
    }
}
