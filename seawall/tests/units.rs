//! The units under `systemd/`: systemd understands every line of them, finds the command where they say it is, and rates
//! them as hardened. Skipped, with a word, where there is no systemd.

use std::path::{Path, PathBuf};
use std::process::Command;

fn units() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let mut units: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "service" || extension == "timer"))
        .collect();
    units.sort();
    units
}

/// The units in a folder of their own, with the command under test in the place of the installed one.
fn installed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for unit in units() {
        let text = std::fs::read_to_string(&unit).unwrap();
        let text = text.replace("/usr/bin/seawall", env!("CARGO_BIN_EXE_seawall"));
        std::fs::write(dir.path().join(unit.file_name().unwrap()), text).unwrap();
    }
    dir
}

fn analyze() -> Option<Command> {
    let found = Command::new("systemd-analyze").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no systemd-analyze here");
        return None;
    }
    Some(Command::new("systemd-analyze"))
}

#[test]
fn systemd_has_nothing_to_say_about_any_unit() {
    let Some(mut analyze) = analyze() else { return };
    let dir = installed();
    let paths = units().into_iter().map(|unit| dir.path().join(unit.file_name().unwrap()));
    let output = analyze.arg("verify").arg("--man=no").args(paths).output().unwrap();
    // Unknown keys are no reason for it to fail; they are only printed.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn a_misspelt_directive_would_be_noticed() {
    let Some(mut analyze) = analyze() else { return };
    let dir = installed();
    let unit = dir.path().join("seawall.service");
    let text = std::fs::read_to_string(&unit).unwrap().replace("WatchdogSec=", "WatchdogSecs=");
    std::fs::write(&unit, text).unwrap();
    let output = analyze.arg("verify").arg("--man=no").arg(unit).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("WatchdogSecs"));
}

#[test]
fn every_service_is_hardened() {
    let dir = installed();
    for unit in units().iter().filter(|unit| unit.extension().is_some_and(|extension| extension == "service")) {
        let Some(mut analyze) = analyze() else { return };
        let unit = dir.path().join(unit.file_name().unwrap());
        // Ten times the exposure: 1.5 of 10 at most.
        let output = analyze.args(["security", "--offline=yes", "--threshold=15"]).arg(&unit).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let rating = text.lines().rfind(|line| line.contains("Overall exposure")).unwrap_or_default();
        assert!(output.status.success(), "{}: {rating}", unit.display());
    }
}

#[test]
fn what_needs_a_reason_has_one() {
    let plain = [
        "Description",
        "Documentation",
        "Type",
        "User",
        "Group",
        "ExecStart",
        "WantedBy",
        "Wants",
        "After",
        "OnCalendar",
    ];
    for unit in units() {
        let text = std::fs::read_to_string(&unit).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
            if plain.contains(&key) {
                continue;
            }
            // Its own comment, or one over the paragraph it stands in.
            let above = lines[..number].iter().rev().take_while(|line| !line.is_empty() && !line.starts_with('['));
            assert!(above.into_iter().any(|line| line.starts_with('#')), "{}: nothing says why {line}", unit.display());
        }
    }
}
