//! Settings: a file's text, then an assignment, then a variable of the environment. Whatever they say is taken or refused with
//! a sentence; what is taken says the same when it is written out and read again.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use seawall::config::{Config, Sources};

/// In memory where there is such a place: settings are read from a file each time.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("seawall-fuzz-{}.toml", std::process::id()))
});

fuzz_target!(
    init: seawall_fuzz::begin([
        ("defaults", include_bytes!("../../seawall/src/config/defaults.toml").to_vec()),
        ("assigned", b"[node]\nname = \"a\"\n\0log.segment_size=1MiB\0SEAWALL_HTTP__BODY_MAX=2MiB".to_vec()),
        ("keyspace", b"[keyspace.users]\ntuning = \"read\"\n".to_vec()),
        ("archive", b"[archive]\nurl = \"s3://bucket/prefix?region=eu\"\ninterval = \"5s\"\n".to_vec()),
    ]),
    |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let mut parts = text.split('\0');
        let file = parts.next().unwrap_or_default();
        let assignments = parts.next().map(str::to_owned).into_iter().collect();
        let environment = parts.filter_map(|part| part.split_once('='));
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        std::fs::write(&*FILE, file).expect("settings can be written");
        let sources = Sources { file: Some(FILE.clone()), environment, assignments, ..Sources::default() };
        let loaded = Config::load(&sources);
        std::fs::remove_file(&*FILE).expect("it was just written");
        match loaded {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(loaded) => {
                let text = toml::to_string(&loaded.config).expect("settings can be written out");
                std::fs::write(&*FILE, text).expect("settings can be written");
                let again = Config::load(&Sources { file: Some(FILE.clone()), ..Sources::default() });
                std::fs::remove_file(&*FILE).expect("it was just written");
                assert_eq!(again.expect("what was in force can be read again").config, loaded.config);
            }
        }
    }
);
