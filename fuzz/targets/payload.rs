//! What the engine puts into the log's records: commits, changes of keyspaces, promotions. What parses is written back as it
//! was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seawall_engine::payload::{CommitBuilder, CommitPayload, KeyspaceChange, Promotion};

fuzz_target!(
    init: seawall_fuzz::begin([
        ("commit", include_bytes!("../../engine/tests/fixtures/v1/commit.payload").as_slice()),
        ("ranges", include_bytes!("../../engine/tests/fixtures/v1/commit_delete_range.payload")),
        ("merges", include_bytes!("../../engine/tests/fixtures/v1/commit_merge_ttl.payload")),
        ("create", include_bytes!("../../engine/tests/fixtures/v1/keyspace_create.payload")),
        ("drop", include_bytes!("../../engine/tests/fixtures/v1/keyspace_drop.payload")),
        ("promotion", include_bytes!("../../engine/tests/fixtures/v1/promotion.payload")),
    ]),
    |input: &[u8]| {
        if let Ok(commit) = CommitPayload::parse(input) {
            let mut builder = CommitBuilder::default();
            commit.operations().for_each(|operation| builder.push(operation));
            assert_eq!(builder.operations(), commit.count());
            assert_eq!(builder.finish(), input);
        }
        if let Ok(change) = KeyspaceChange::parse(input) {
            assert_eq!(change.encode(), input);
        }
        if let Ok(promotion) = Promotion::parse(input) {
            assert_eq!(promotion.encode(), input);
        }
    }
);
