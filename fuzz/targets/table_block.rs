//! The bodies of a table's blocks, with nothing between them and the input: entries, filters, range deletes, lists of blob
//! files. What passes its check can be used in every way.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seawall_engine::fuzzing::{TableFiles, blob_list, filter, range_deletes, sorted_block};
use seawall_fuzz::Script;

fuzz_target!(
    init: seawall_fuzz::begin(seeds()),
    |input: &[u8]| {
        let mut script = Script::new(input);
        let (kind, count) = (script.u8(), script.u32());
        let raw = script.rest();
        let entries = match kind % 4 {
            0 => sorted_block(raw, count),
            1 => [b"".as_slice(), b"a", b"key"].iter().filter_map(|key| filter(raw, count, key)).map(usize::from).max(),
            2 => range_deletes(raw, count),
            _ => blob_list(raw, count),
        };
        // Nothing makes more of its bytes than there are.
        assert!(entries.unwrap_or(0) <= raw.len());
    }
);

/// The blocks of a table: they are found by their frames, which say how long they are.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let table = TableFiles::sample(false).table;
    let names = ["data", "filter", "root", "properties", "range_deletes", "leaf"];
    let mut seeds = Vec::new();
    for at in (16..table.len().saturating_sub(20)).step_by(4) {
        let field =
            |offset: usize| table[at + offset..at + offset + 4].try_into().map(u32::from_le_bytes).expect("four");
        let (stored, raw, kind) = (field(4) as usize, field(8) as usize, usize::from(table[at + 13]));
        let body = table.get(at + 20..at + 20 + stored).filter(|_| stored == raw && table[at + 14..at + 16] == [0, 0]);
        let crc = body.map(|_| {
            let covered = [&(at as u64).to_le_bytes()[..], &3_u32.to_le_bytes(), &table[at + 4..at + 20 + stored]];
            crc32fast::hash(&covered.concat())
        });
        if let (Some(body), true, Some(name)) = (body, crc == Some(field(0)), names.get(kind.wrapping_sub(1))) {
            let target = [0, 1, 0, 3, 2, 0][kind - 1];
            // Of the properties only the list, behind two keys.
            seeds.push((*name, [&[target], &table[at + 16..at + 20], body].concat()));
        }
    }
    seeds.push(("none", vec![3, 0, 0, 0, 0]));
    seeds
}
