//! The binaries of the tests, from one build: cargo is asked where it put them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// A test binary and the folder its tests expect to be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// What to run.
    pub path: PathBuf,
    /// The package's folder.
    pub folder: PathBuf,
}

/// By package folder and target, as in the table: `engine/crash` is the test target `crash` in `engine/`, `engine/lib` the
/// tests within that crate.
pub type Binaries = BTreeMap<String, Binary>;

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    executable: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the tests of these packages, with what else cargo is to be told.
///
/// # Errors
/// If cargo cannot be run, or does not build them; what it said is on the standard error.
pub fn build(packages: &[&str], options: &[String]) -> Result<Binaries> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).args(options);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    found_in(&String::from_utf8(output.stdout).context("cargo's messages are not text")?)
}

/// The test binaries that cargo's messages speak of.
fn found_in(messages: &str) -> Result<Binaries> {
    let mut binaries = Binaries::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).with_context(|| format!("not a message of cargo: {line}"))?;
        let Message { reason, manifest_path, executable, target, profile } = message;
        if let ("compiler-artifact", Some(manifest), Some(path), Some(target), Some(Profile { test: true })) =
            (reason.as_str(), manifest_path, executable, target, profile)
        {
            let folder = manifest.parent().unwrap_or(Path::new("")).to_owned();
            let package = folder.file_name().unwrap_or_default().to_string_lossy();
            let name = if target.kind.iter().any(|kind| kind == "lib") { "lib" } else { &target.name };
            binaries.insert(format!("{package}/{name}"), Binary { path, folder });
        }
    }
    Ok(binaries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binaries_are_known_by_their_package_and_target() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/s/wal/Cargo.toml","target":{"kind":["lib"],"name":"seawall_wal"},"profile":{"test":false},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/s/wal/Cargo.toml","target":{"kind":["lib"],"name":"seawall_wal"},"profile":{"test":true},"executable":"/t/wal-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/s/wal/Cargo.toml","target":{"kind":["test"],"name":"crash"},"profile":{"test":true},"executable":"/t/crash-2"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = found_in(messages).unwrap();
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["wal/crash", "wal/lib"]);
        assert_eq!(found["wal/lib"], Binary { path: "/t/wal-1".into(), folder: "/s/wal".into() });
    }
}
