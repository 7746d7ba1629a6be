//! A table and its blob files, with their bytes changed. As they come: what is read is what was written, or an error says
//! where the damage is. And sealed, with the checksums of blocks and values out of the way: reading may say anything, but
//! does not panic and stays within its memory.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use seawall_engine::fuzzing::{TableFiles, Version};
use seawall_engine::mutant::{Mutant, with_mutant};
use seawall_fuzz::{Edit, Script, is_planted};

/// Changes of one input that is sealed.
const EDITS_MAX: usize = 6;

static SAMPLES: LazyLock<[(TableFiles, Vec<Version>); 2]> = LazyLock::new(|| {
    [false, true].map(|below| {
        let files = TableFiles::sample(below);
        let versions = files.read(true).expect("a healthy table is read");
        (files, versions)
    })
});

fuzz_target!(
    init: seawall_fuzz::begin([
        ("healthy", [0_u8, 0].as_slice()),
        ("block", &[0, 0, 0, 0, 40, 0, 0, 0, 0xFF]),
        ("blob", &[0, 0, 1, 3, 40, 0, 0, 0]),
        ("sealed", &[0, 1, 0, 0, 40, 0, 0, 0, 0xFF, 0, 0, 60, 0, 0, 0, 7]),
        ("below", &[1, 1, 0, 0, 40, 0, 0, 0, 0xFF]),
    ]),
    |input: &[u8]| {
        let mut script = Script::new(input);
        let (healthy, versions) = &SAMPLES[usize::from(script.bool())];
        if script.bool() {
            let mut files = healthy.clone();
            for _ in 0..EDITS_MAX {
                if !script.is_over() {
                    edit(&mut files, &mut script);
                }
            }
            files.seal();
            let mutant = if script.bool() { Mutant::BlobValuesNotChecked } else { Mutant::BlocksNotChecked };
            if let Err(error) = with_mutant(mutant, || files.read(false)) {
                assert!(!error.to_string().is_empty());
            }
            return;
        }
        // One change: no checksum is made to fit it.
        let mut files = healthy.clone();
        edit(&mut files, &mut script);
        let read = || files.read(true);
        let bugs = [Mutant::BlocksNotChecked, Mutant::BlobValuesNotChecked];
        let read = match bugs.into_iter().find(|bug| is_planted(&format!("{bug:?}"))) {
            Some(bug) => with_mutant(bug, read),
            None => read(),
        };
        if let Ok(read) = read {
            assert!(&read == versions, "damage was served");
        }
    }
);

fn edit(files: &mut TableFiles, script: &mut Script<'_>) {
    let number = usize::from(script.u8());
    let blobs = files.blobs.len();
    let file = match number % (blobs + 3) {
        // Where most of the format is.
        0..=2 => &mut files.table,
        blob => &mut files.blobs[blob - 3],
    };
    if !file.is_empty() {
        Edit::next(script, file.len()).apply(file);
    }
}
