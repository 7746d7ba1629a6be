//! What the targets share: an input as a script, changes of valid files, seeds, and bugs planted on purpose.
//!
//! A target gets arbitrary bytes. Some hand them to a parser as they are. Where a checksum would turn nearly all of them
//! away, the bytes are a [`Script`]: it says how a valid file is changed, or what stands in its fields, and the target
//! makes the checksum right where an attacker could.

mod edit;
pub mod log;
pub mod replication;
mod script;

use std::path::PathBuf;

pub use edit::{Edit, differences};
pub use script::Script;

/// Where a target writes its seeds instead of running.
const SEEDS: &str = "SEAWALL_FUZZ_SEEDS";
/// The bug that is planted in what a target tries: its name in `wal/src/mutant.rs` or `engine/src/mutant.rs`.
const MUTANT: &str = "SEAWALL_FUZZ_MUTANT";

/// Begins a target. If it is asked for its seeds it writes them, by name, and ends the process.
///
/// # Panics
/// If they cannot be written.
pub fn begin<T: AsRef<[u8]>>(seeds: impl IntoIterator<Item = (&'static str, T)>) {
    let Some(folder) = std::env::var_os(SEEDS).map(PathBuf::from) else { return };
    std::fs::create_dir_all(&folder).expect("the folder for seeds can be made");
    for (name, seed) in seeds {
        std::fs::write(folder.join(name), seed).expect("a seed can be written");
    }
    std::process::exit(0);
}

/// Whether the bug of this name is to be planted.
pub fn is_planted(mutant: &str) -> bool {
    static ASKED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ASKED.get_or_init(|| std::env::var(MUTANT).ok()).as_deref() == Some(mutant)
}
