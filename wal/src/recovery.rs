//! What recovery decides when it has found where the good records end: the table of FORMAT.md as data, and the facts it
//! is asked with. Gathering the facts is `open`'s business, acting on the verdict too.

use crate::lsn::Lsn;

/// What the headers met on the way said, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Headers {
    /// One is of a newer version.
    TooNew,
    /// One is of another cluster, timeline, nonce, size or number.
    Foreign,
    /// One is neither zero nor whole.
    Unreadable,
    /// Nothing wrong.
    Fine,
}

/// What lies at the end of the good records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// An end mark, a segment that was never begun, or no file.
    Clean,
    /// Anything else.
    Bad,
}

/// Everything the decision depends on. X is the end of the good records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Reading or listing failed.
    pub read_failed: bool,
    /// The headers met.
    pub headers: Headers,
    /// What lies at X.
    pub at_end: AtEnd,
    /// X < W.
    pub below_watermark: bool,
    /// L > X: this node itself noted, further on, that it had flushed beyond X.
    pub stamped_beyond: bool,
    /// Something beyond X is valid in itself.
    pub valid_beyond: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The log ends at X.
    Open,
    /// The log ends at X once what lies beyond is put away.
    Cut,
    /// Stop, having changed nothing.
    Halt(Halt),
}

/// Why not to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Reading failed.
    Io,
    /// Written by a newer version.
    TooNew,
    /// Of another log.
    Foreign,
    /// A header is damaged.
    UnreadableHeader,
    /// X < W.
    BelowWatermark,
    /// L > X.
    BelowStamp,
}

/// One row: every `Some` must match, `None` is anything.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number in FORMAT.md.
    pub number: u8,
    read_failed: Option<bool>,
    headers: Option<Headers>,
    at_end: Option<AtEnd>,
    below_watermark: Option<bool>,
    stamped_beyond: Option<bool>,
    valid_beyond: Option<bool>,
    /// What it says.
    pub verdict: Verdict,
}

const ANY: Row = Row {
    number: 0,
    read_failed: None,
    headers: None,
    at_end: None,
    below_watermark: None,
    stamped_beyond: None,
    valid_beyond: None,
    verdict: Verdict::Open,
};

const BAD: Row = Row { at_end: Some(AtEnd::Bad), ..ANY };
const CLEAN: Row = Row { at_end: Some(AtEnd::Clean), ..ANY };
const STAMP: Verdict = Verdict::Halt(Halt::BelowStamp);
const WATERMARK: Verdict = Verdict::Halt(Halt::BelowWatermark);

/// The table, in order of precedence.
pub static TABLE: [Row; 11] = [
    Row { number: 9, read_failed: Some(true), verdict: Verdict::Halt(Halt::Io), ..ANY },
    Row { number: 7, headers: Some(Headers::TooNew), verdict: Verdict::Halt(Halt::TooNew), ..ANY },
    Row { number: 6, headers: Some(Headers::Foreign), verdict: Verdict::Halt(Halt::Foreign), ..ANY },
    Row { number: 8, headers: Some(Headers::Unreadable), verdict: Verdict::Halt(Halt::UnreadableHeader), ..ANY },
    Row { number: 4, stamped_beyond: Some(true), verdict: STAMP, ..BAD },
    Row { number: 4, below_watermark: Some(true), verdict: WATERMARK, ..BAD },
    Row { number: 5, stamped_beyond: Some(true), verdict: STAMP, ..CLEAN },
    Row { number: 5, below_watermark: Some(true), verdict: WATERMARK, ..CLEAN },
    Row { number: 3, valid_beyond: Some(true), verdict: Verdict::Cut, ..ANY },
    Row { number: 2, valid_beyond: Some(false), verdict: Verdict::Cut, ..BAD },
    Row { number: 1, valid_beyond: Some(false), verdict: Verdict::Open, ..CLEAN },
];

impl Row {
    fn matches(&self, evidence: &Evidence) -> bool {
        fn fits<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        fits(self.read_failed, evidence.read_failed)
            && fits(self.headers, evidence.headers)
            && fits(self.at_end, evidence.at_end)
            && fits(self.below_watermark, evidence.below_watermark)
            && fits(self.stamped_beyond, evidence.stamped_beyond)
            && fits(self.valid_beyond, evidence.valid_beyond)
    }
}

/// The row that applies.
pub fn decide(evidence: &Evidence) -> &'static Row {
    TABLE.iter().find(|row| row.matches(evidence)).expect("the table covers every combination")
}

/// What recovery found and did, for the log and for status.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Where the log ends now.
    pub end: crate::Position,
    /// Records handed over.
    pub records: u64,
    /// The row of the table that applied.
    pub row: u8,
    /// What it said.
    pub verdict: Verdict,
    /// Up to where bytes lay beyond the end; the end itself if nothing was cut.
    pub cut_to: Lsn,
    /// Where the cut bytes were kept, if they were.
    pub kept: Option<std::path::PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_combination() -> Vec<Evidence> {
        let mut all = Vec::new();
        for bits in 0..32u8 {
            let bit = |at: u8| bits >> at & 1 == 1;
            for headers in [Headers::TooNew, Headers::Foreign, Headers::Unreadable, Headers::Fine] {
                all.push(Evidence {
                    read_failed: bit(0),
                    headers,
                    at_end: if bit(1) { AtEnd::Bad } else { AtEnd::Clean },
                    below_watermark: bit(2),
                    stamped_beyond: bit(3),
                    valid_beyond: bit(4),
                });
            }
        }
        all
    }

    /// The rule in one sentence, written without the table: cut if X >= W and L <= X, corruption if X < W or L > X.
    fn rule(evidence: &Evidence) -> Verdict {
        if evidence.read_failed {
            return Verdict::Halt(Halt::Io);
        }
        match evidence.headers {
            Headers::TooNew => return Verdict::Halt(Halt::TooNew),
            Headers::Foreign => return Verdict::Halt(Halt::Foreign),
            Headers::Unreadable => return Verdict::Halt(Halt::UnreadableHeader),
            Headers::Fine => {}
        }
        if evidence.stamped_beyond {
            Verdict::Halt(Halt::BelowStamp)
        } else if evidence.below_watermark {
            Verdict::Halt(Halt::BelowWatermark)
        } else if evidence.at_end == AtEnd::Bad || evidence.valid_beyond {
            Verdict::Cut
        } else {
            Verdict::Open
        }
    }

    #[test]
    fn every_combination_of_facts_has_its_row_and_the_row_says_what_the_rule_says() {
        for evidence in every_combination() {
            assert_eq!(decide(&evidence).verdict, rule(&evidence), "{evidence:?}");
        }
    }

    #[test]
    fn every_row_decides_some_combination() {
        let all = every_combination();
        for (index, row) in TABLE.iter().enumerate() {
            let decides = |evidence: &Evidence| std::ptr::eq(decide(evidence), &TABLE[index]);
            assert!(all.iter().any(decides), "row {} at {index} is never reached", row.number);
        }
    }

    #[test]
    fn beyond_the_precedence_of_the_first_four_exactly_one_row_or_an_equal_one_applies() {
        for evidence in every_combination() {
            let healthy = !evidence.read_failed && evidence.headers == Headers::Fine;
            let verdicts: Vec<_> = TABLE.iter().filter(|row| row.matches(&evidence)).collect();
            let single = !evidence.stamped_beyond && !evidence.below_watermark && !evidence.valid_beyond;
            if healthy && single {
                assert_eq!(verdicts.len(), 1, "{evidence:?}");
            }
        }
    }
}
