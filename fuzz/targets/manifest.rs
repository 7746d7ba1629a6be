//! The manifest, with a checksum that is right. What parses is written back as it was, and nothing is made of a count that
//! no bytes stand behind.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use seawall_engine::manifest::Manifest;

fuzz_target!(
    init: seawall_fuzz::begin([
        ("golden", include_bytes!("../../engine/tests/fixtures/v1/manifest").to_vec()),
        ("empty", Manifest::empty(seawall_wal::ClusterId::from_bytes([0xC0; 16])).encode()),
    ]),
    |input: &[u8]| {
        let mut bytes = input.to_vec();
        if bytes.len() >= 12 {
            let crc = crc32fast::hash(&bytes[12..]);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        let path = Path::new("manifest");
        // With the checksum as it came it is nearly always refused.
        let _ = Manifest::parse(input, path);
        if let Ok(manifest) = Manifest::parse(&bytes, path) {
            assert_eq!(manifest.encode(), bytes);
            assert!(manifest.files().count() <= bytes.len());
            assert!(manifest.floor <= manifest.redo.lsn && manifest.log_start.lsn <= manifest.redo.lsn);
        }
    }
);
