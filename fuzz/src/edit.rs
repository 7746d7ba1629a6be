//! Changes of a valid file: what a disk, a bug or an attacker may have done to it.

use std::ops::Range;

use crate::Script;

/// No file grows by more than this.
const GROWTH_MAX: usize = 4096;

/// One change.
#[derive(Clone, Copy, Debug)]
pub enum Edit<'a> {
    /// Up to four bytes become others: what a 32-bit checksum is sure to notice.
    Burst(usize, &'a [u8]),
    /// One bit is flipped.
    Flip(usize, u8),
    /// A stretch becomes zeros, as sectors that were never written.
    Zero(usize, usize),
    /// A stretch is written again elsewhere, as by a misdirected write.
    Copy(usize, usize, usize),
    /// The end is gone.
    Cut(usize),
    /// Something follows the end.
    Grow(&'a [u8]),
}

impl<'a> Edit<'a> {
    /// The next change in a script, of a file of `len` bytes, at least one.
    pub fn next(script: &mut Script<'a>, len: usize) -> Self {
        let kind = script.u8();
        let at = script.below(len);
        match kind % 8 {
            0..=2 => Self::Burst(at, script.bytes(1 + usize::from(kind >> 3) % 4)),
            3 => Self::Flip(at, kind >> 3 & 7),
            4 => Self::Zero(at, 1 + usize::from(script.u16())),
            5 => Self::Copy(at, script.below(len), 1 + usize::from(script.u16())),
            6 => Self::Cut(at),
            _ => {
                let len = usize::from(script.u16()) % GROWTH_MAX;
                Self::Grow(script.bytes(len))
            }
        }
    }

    /// Makes it. What would reach beyond the end does not.
    pub fn apply(&self, file: &mut Vec<u8>) {
        match *self {
            Self::Burst(at, bytes) => {
                file.iter_mut().skip(at).zip(bytes).for_each(|(byte, new)| *byte = *new);
            }
            Self::Flip(at, bit) => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit),
            Self::Zero(at, len) => file.iter_mut().skip(at).take(len).for_each(|byte| *byte = 0),
            Self::Copy(from, to, len) => {
                let len = len.min(file.len().saturating_sub(from.max(to)));
                if len > 0 {
                    file.copy_within(from..from + len, to);
                }
            }
            Self::Cut(at) => file.truncate(at),
            Self::Grow(bytes) => file.extend_from_slice(bytes),
        }
    }
}

/// From the first to the last byte in which two files differ; beyond the end of either they do. Empty if they are the same.
pub fn differences(a: &[u8], b: &[u8]) -> Range<usize> {
    /// Compared at once: byte by byte takes longer than what is tried.
    const STRETCH: usize = 256;
    let same = a.chunks(STRETCH).zip(b.chunks(STRETCH)).take_while(|(a, b)| a == b).count() * STRETCH;
    let from = same.min(a.len()).min(b.len());
    let first = from + a[from..].iter().zip(&b[from..]).take_while(|(a, b)| a == b).count();
    if a.len() != b.len() {
        return first..a.len().max(b.len());
    }
    let same = a.rchunks(STRETCH).zip(b.rchunks(STRETCH)).take_while(|(a, b)| a == b).count() * STRETCH;
    let to = a.len().saturating_sub(same);
    let behind = a[..to].iter().rev().zip(b[..to].iter().rev()).take_while(|(a, b)| a == b).count();
    first..(to - behind).max(first)
}
