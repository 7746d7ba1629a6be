//! Conversations as transcripts a person can read: each file in `scenarios/` is a story of commands and what followed them.
//! With `SEAWALL_REWRITE=1` the answers are written down anew; read the difference before you believe it.

mod transcript;

use std::path::Path;

#[test]
fn streams_go_as_their_transcripts_tell() {
    transcript::check(&folder("stream"), transcript::StreamWorld::new);
}

#[test]
fn plans_are_as_their_transcripts_tell() {
    transcript::check(&folder("feed"), transcript::PlanWorld::new);
}

#[test]
fn promotions_go_as_their_transcripts_tell() {
    transcript::check(&folder("promotion"), transcript::PromotionWorld::new);
}

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(name)
}
