//! Every bit of the files of a database is flipped, one at a time: it is noticed, or nobody reads it, or it is in the last
//! group of the log and reported as a cut tail. Nothing wrong is served.
//!
//! Here that is done for a part of the bits and all of the headers; for every bit of a log of 1 MiB and of all other files:
//! `SEAWALL_ROT_STRIDE=1 cargo test -p seawall-torture --test bit_rot -- --nocapture`.

use seawall_engine::mutant as engine;
use seawall_torture::rot::{Decaying, DecayingFile, DecayingLog, Kind, RotFigures, rot};
use seawall_wal::mutant as wal;

const LOG_BYTES: u64 = 1 << 20;

/// One of how many bits is flipped, unless `SEAWALL_ROT_STRIDE` says otherwise.
fn stride(usual: u64) -> u64 {
    std::env::var("SEAWALL_ROT_STRIDE").map_or(usual, |stride| stride.parse().expect("SEAWALL_ROT_STRIDE is a number"))
}

fn flipped(name: &str, file: &dyn Decaying, usual_stride: u64) -> RotFigures {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let figures = rot(file, stride(usual_stride), threads);
    let RotFigures { flips, detected, misnamed, cut_tails, harmless, cut_below_stamp, served } = figures;
    println!(
        "{name}, {} bytes: {flips} bits flipped, {detected} detected, {misnamed} refused by another name, {cut_tails} reported as a cut tail, {harmless} \
         harmless, {cut_below_stamp} cut without evidence, {served} served",
        file.bytes()
    );
    assert_eq!((served, cut_below_stamp, misnamed), (0, 0, 0), "{name}");
    figures
}

#[test]
fn a_flipped_bit_of_the_log_is_noticed_or_in_its_last_group_and_reported() {
    let figures = flipped("log", &DecayingLog::new(LOG_BYTES, false), 499);
    assert!(figures.cut_tails > 0, "the last group is not covered yet");
    assert!(figures.harmless * 4 < figures.detected, "{figures:?}");
}

#[test]
fn a_flipped_bit_of_a_log_below_the_watermark_is_noticed() {
    let figures = flipped("log below the watermark", &DecayingLog::new(LOG_BYTES, true), 1999);
    assert_eq!(figures.cut_tails, 0);
    assert!(figures.harmless * 4 < figures.detected, "{figures:?}");
}

#[test]
fn a_flipped_bit_of_the_control_file_is_noticed_or_in_the_room_that_is_left() {
    let figures = file(Kind::Control, 1999);
    assert!(figures.detected > 2000, "{figures:?}");
}

#[test]
fn a_flipped_bit_of_the_manifest_is_noticed() {
    assert_eq!(file(Kind::Manifest, 1).harmless, 0);
}

#[test]
fn a_flipped_bit_of_a_table_is_noticed() {
    assert_eq!(file(Kind::Table, 31).harmless, 0);
}

#[test]
fn a_flipped_bit_of_a_blob_file_is_noticed() {
    assert_eq!(file(Kind::Blob, 61).harmless, 0);
}

fn file(kind: Kind, usual_stride: u64) -> RotFigures {
    let figures = flipped(&format!("{kind:?}"), &DecayingFile::new(kind), usual_stride);
    assert_eq!(figures.cut_tails, 0, "{kind:?}");
    figures
}

#[test]
fn a_recovery_that_cuts_at_any_bad_checksum_is_noticed() {
    let log = DecayingLog::new(200_000, false);
    let naive = || rot(&log, 40_009, 1);
    assert!(wal::with_mutant(wal::Mutant::TruncateAtAnyBadCrc, naive).cut_below_stamp > 0);
}

#[test]
fn a_recovery_that_ignores_stamps_is_noticed() {
    let log = DecayingLog::new(200_000, false);
    let naive = || rot(&log, 40_009, 1);
    assert!(wal::with_mutant(wal::Mutant::IgnoreStamp, naive).cut_below_stamp > 0);
}

#[test]
fn table_blocks_that_are_not_checked_are_noticed() {
    let table = DecayingFile::new(Kind::Table);
    assert!(engine::with_mutant(engine::Mutant::BlocksNotChecked, || rot(&table, 4001, 1)).served > 0);
}

#[test]
fn values_of_blob_files_that_are_not_checked_are_noticed() {
    let blob = DecayingFile::new(Kind::Blob);
    assert!(engine::with_mutant(engine::Mutant::BlobValuesNotChecked, || rot(&blob, 4001, 1)).served > 0);
}
