//! Bit rot: one bit of a file at rest is flipped, and the database opened and read. What was flipped is noticed, or was
//! padding, or is in the last group of the log, which nothing behind it covers yet, and is reported as a cut tail. It is never
//! served, and never makes the log shorter without a word.

mod file;
mod log;

use std::ops::Range;

use seawall_engine::{CommitLevel, Db};
use seawall_wal::SegmentSize;

pub use file::{DecayingFile, Kind};
pub use log::DecayingLog;

use crate::setup::{Part, Setup};
use crate::story::Story;

/// What became of one flipped bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flipped {
    /// It was reported: by refusing with the name of the damaged file, or the damaged record's place, or by using the other copy.
    Detected,
    /// Something was refused, with words that lead elsewhere: perhaps for another reason.
    Misnamed,
    /// The last group of the log was cut, and that was reported.
    CutTail,
    /// Nothing was reported, and everything was right: nobody reads that bit.
    Harmless,
    /// The log was cut below what this node had noted that it flushed.
    CutBelowStamp,
    /// Something else than what was written was read.
    Served,
}

/// How many bits became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotFigures {
    /// Bits flipped, one at a time.
    pub flips: u64,
    /// See [`Flipped::Detected`].
    pub detected: u64,
    /// See [`Flipped::Misnamed`].
    pub misnamed: u64,
    /// See [`Flipped::CutTail`].
    pub cut_tails: u64,
    /// See [`Flipped::Harmless`].
    pub harmless: u64,
    /// See [`Flipped::CutBelowStamp`].
    pub cut_below_stamp: u64,
    /// See [`Flipped::Served`].
    pub served: u64,
}

impl RotFigures {
    fn count(&mut self, flipped: Flipped) {
        self.flips += 1;
        *match flipped {
            Flipped::Detected => &mut self.detected,
            Flipped::Misnamed => &mut self.misnamed,
            Flipped::CutTail => &mut self.cut_tails,
            Flipped::Harmless => &mut self.harmless,
            Flipped::CutBelowStamp => &mut self.cut_below_stamp,
            Flipped::Served => &mut self.served,
        } += 1;
    }

    fn add(&mut self, other: Self) {
        self.flips += other.flips;
        self.detected += other.detected;
        self.misnamed += other.misnamed;
        self.cut_tails += other.cut_tails;
        self.harmless += other.harmless;
        self.cut_below_stamp += other.cut_below_stamp;
        self.served += other.served;
    }
}

/// A file whose bits are flipped.
pub trait Decaying: Sync {
    /// How many there are to flip bits of.
    fn bytes(&self) -> u64;
    /// Parts of which every bit is flipped, whatever the stride is.
    fn headers(&self) -> &[Range<u64>];
    /// Flips one bit, on a copy of the disk.
    fn flip(&self, byte: u64, bit: u8) -> Flipped;
}

/// Flips every `stride`-th bit of a file and all of its headers, on so many threads.
pub fn rot(file: &dyn Decaying, stride: u64, threads: usize) -> RotFigures {
    let part = |number: u64, of: u64| {
        let mut figures = RotFigures::default();
        for byte in (number..file.bytes()).step_by(of as usize) {
            let header = file.headers().iter().any(|range| range.contains(&byte));
            for bit in (0..8).filter(|bit| header || (byte * 8 + bit).is_multiple_of(stride)) {
                figures.count(file.flip(byte, bit as u8));
            }
        }
        figures
    };
    if threads < 2 {
        return part(0, 1);
    }
    let mut sum = RotFigures::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            (0..threads as u64).map(|number| scope.spawn(move || part(number, threads as u64))).collect();
        for figures in parts {
            sum.add(figures.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    sum
}

fn plain(seed: u64) -> Setup {
    Setup {
        seed,
        part: Part::Primary,
        writers: 1,
        commits: 0,
        segment: SegmentSize::MIN,
        memtable_bytes: 64 << 10,
        table_bytes: 32 << 10,
        blob_bytes: None,
        fault: None,
    }
}

fn commit(db: &Db, story: &Story, number: u64, level: CommitLevel) {
    let committed = db.keyspace(&story.keyspace()).and_then(|keyspace| {
        let mut batch = db.batch();
        story.write(number, &keyspace, &mut batch);
        batch.commit_with(level)
    });
    committed.expect("nothing fails on this disk");
}
