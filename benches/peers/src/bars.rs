//! The bars: what Seawall sets itself to reach, as ratios to F and to its peers, and how a measured row is held against
//! them. A peer with several settings is represented by its fastest.

use std::fmt;

use serde::Serialize;

use crate::rounds::{Measured, best};
use crate::statistics::Spread;

/// The name of F among cells.
pub(crate) const FLOOR: &str = "F";

/// What a cell of ours is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// F.
    Floor,
    /// The fastest cell whose name begins so.
    Peer(&'static str),
    /// Nothing: operations a second.
    Nothing,
    /// A figure that only the row knows how to work out.
    Special(&'static str),
}

/// Which side of a figure is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    fn is_met_by(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(limit) => figure >= limit,
            Self::AtMost(limit) => figure <= limit,
        }
    }
}

/// A figure with what it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bar {
    /// The name of our cell.
    pub(crate) of: &'static str,
    pub(crate) against: Against,
    pub(crate) bar: Option<Limit>,
    pub(crate) moonshot: Option<Limit>,
}

const fn at_least(of: &'static str, against: Against, bar: f64, moonshot: f64) -> Bar {
    Bar { of, against, bar: Some(Limit::AtLeast(bar)), moonshot: Some(Limit::AtLeast(moonshot)) }
}

/// With a bar and no moonshot.
const fn no_less(of: &'static str, against: Against, bar: f64) -> Bar {
    Bar { of, against, bar: Some(Limit::AtLeast(bar)), moonshot: None }
}

const fn at_most(of: &'static str, against: Against, bar: f64, moonshot: f64) -> Bar {
    Bar { of, against, bar: Some(Limit::AtMost(bar)), moonshot: Some(Limit::AtMost(moonshot)) }
}

/// A figure that is told and not judged.
const fn told(of: &'static str, against: Against) -> Bar {
    Bar { of, against, bar: None, moonshot: None }
}

use Against::{Floor, Nothing, Peer, Special};

const SEAWALL: &str = "Seawall";
const ROCKSDB: Against = Peer("RocksDB");
const FJALL: Against = Peer("fjall");
const REDB: Against = Peer("redb");
const LMDB: Against = Peer("LMDB");
const SQLITE: Against = Peer("SQLite");

pub(crate) const LOG_ONE: &[Bar] = &[at_least("log, 1 thread", Floor, 0.95, 1.10)];
pub(crate) const LOG_THREADS: &[Bar] = &[
    at_least("log, 8 threads", Floor, 3.3, 4.2),
    at_least("log, 64 threads", Floor, 15.0, 21.0),
    at_least("log, 256 threads", Floor, 22.0, 32.0),
];
pub(crate) const LOG_TASKS: &[Bar] =
    &[at_least("log, 1024 tasks, 144 B", Floor, 100.0, 350.0), at_least("log, 1024 tasks, 1 KiB", Floor, 60.0, 170.0)];
pub(crate) const TAIL: Against = Special("p99 / p50");
pub(crate) const ROTATION: Against = Special("p99.9 / p99.9 without rotation");
pub(crate) const LATENCY: &[Bar] = &[
    at_most("log, 64 MiB segments", TAIL, 3.0, 2.0),
    at_most("log, 1 MiB segments", ROTATION, 1.3, 1.1),
    at_most("engine, 64 MiB segments", TAIL, 3.0, 2.0),
    at_most("engine, 1 MiB segments", ROTATION, 1.3, 1.1),
];
pub(crate) const DURABLE_64: &[Bar] = &[
    at_least(SEAWALL, Floor, 12.0, 17.0),
    at_least(SEAWALL, ROCKSDB, 2.5, 4.0),
    at_least(SEAWALL, FJALL, 15.0, 22.0),
    at_least(SEAWALL, REDB, 25.0, 45.0),
    at_least(SEAWALL, LMDB, 25.0, 45.0),
    at_least(SEAWALL, SQLITE, 18.0, 30.0),
];
pub(crate) const DURABLE_1: &[Bar] = &[
    told(SEAWALL, Floor),
    at_least(SEAWALL, ROCKSDB, 1.3, 1.55),
    at_least(SEAWALL, FJALL, 1.0, 1.1),
    at_least(SEAWALL, REDB, 2.0, 2.6),
    at_least(SEAWALL, LMDB, 2.0, 2.6),
    at_least(SEAWALL, SQLITE, 1.6, 2.0),
];
/// Between the two that are judged.
pub(crate) const DURABLE_8: &[Bar] = &[
    told(SEAWALL, Floor),
    told(SEAWALL, ROCKSDB),
    told(SEAWALL, FJALL),
    told(SEAWALL, REDB),
    told(SEAWALL, LMDB),
    told(SEAWALL, SQLITE),
];
pub(crate) const PUT: &[Bar] = &[
    no_less(SEAWALL, ROCKSDB, 4.0),
    no_less(SEAWALL, FJALL, 2.0),
    Bar { of: SEAWALL, against: Nothing, bar: None, moonshot: Some(Limit::AtLeast(1e6)) },
];
pub(crate) const GET_MEMTABLE: &[Bar] = &[
    at_least(SEAWALL, Nothing, 2e6, 4e6),
    no_less(SEAWALL, ROCKSDB, 2.5),
    no_less(SEAWALL, FJALL, 2.0),
    at_least(SEAWALL, LMDB, 0.7, 1.0),
];
pub(crate) const GET_TABLE: &[Bar] = &[
    at_least(SEAWALL, Nothing, 0.8e6, 1.5e6),
    no_less(SEAWALL, ROCKSDB, 2.5),
    no_less(SEAWALL, FJALL, 2.0),
    at_least(SEAWALL, LMDB, 0.7, 1.0),
];
pub(crate) const RANDOM_READ: &str = "random read, 32 in flight";
pub(crate) const COLD: &[Bar] = &[at_least(SEAWALL, Peer(RANDOM_READ), 0.7, 0.9)];
pub(crate) const SCAN: &[Bar] = &[at_least(SEAWALL, ROCKSDB, 1.0, 2.0), at_least(SEAWALL, FJALL, 1.0, 2.0)];
pub(crate) const RECOVERY: &[Bar] =
    &[at_least(SEAWALL, Nothing, 2e6, 4e6), at_least(SEAWALL, ROCKSDB, 8.0, 16.0), told(SEAWALL, FJALL)];

/// A bar with what was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bar: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) moonshot: Option<String>,
    /// None if one of the two was not measured.
    pub(crate) measured: Option<f64>,
    /// Of the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) spread: Option<Spread>,
    /// Whether some rounds meet the bar and some do not, so that another run may judge differently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) close: Option<bool>,
    /// The same in words.
    #[serde(skip)]
    pub(crate) figure: Option<String>,
    #[serde(skip)]
    pub(crate) range: Option<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) met: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) moonshot_met: Option<bool>,
}

impl Bar {
    /// Holds measured cells against it; `special` works out what only the row knows.
    pub(crate) fn check(&self, cells: &[Measured], special: impl Fn(&Self) -> Option<Spread>) -> Check {
        let ours = cells.iter().find(|cell| cell.name == self.of);
        let theirs = |name: &str| best(cells, |cell| cell.starts_with(name));
        let spread = match self.against {
            Against::Floor => ours.and_then(|ours| ours.times(theirs(FLOOR)?)),
            Against::Peer(name) => ours.and_then(|ours| ours.times(theirs(name)?)),
            Against::Nothing => ours.and_then(|ours| ours.per_second),
            Against::Special(_) => special(self),
        };
        let measured = spread.map(|spread| spread.median);
        let held = |limit: Option<Limit>| Some(limit?.is_met_by(measured?));
        let said = |limit: Option<Limit>| limit.map(|limit| self.limit(limit));
        Check {
            what: self.to_string(),
            bar: said(self.bar),
            moonshot: said(self.moonshot),
            measured,
            spread,
            close: self.bar.zip(spread).map(|(bar, Spread { min, max, .. })| bar.is_met_by(min) != bar.is_met_by(max)),
            figure: measured.map(|measured| self.figure(measured)),
            range: spread.map(|spread| (self.figure(spread.min), self.figure(spread.max))),
            met: held(self.bar),
            moonshot_met: held(self.moonshot),
        }
    }

    fn limit(&self, limit: Limit) -> String {
        match limit {
            Limit::AtLeast(figure) => format!("≥ {}", self.figure(figure)),
            Limit::AtMost(figure) => format!("≤ {}", self.figure(figure)),
        }
    }

    /// A figure in the unit of this bar.
    fn figure(&self, figure: f64) -> String {
        match self.against {
            Against::Floor => format!("{figure:.2} F"),
            Against::Peer(_) | Against::Special(_) => format!("{figure:.2}x"),
            Against::Nothing => rate(figure),
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.against {
            Against::Floor => write!(f, "{} / {FLOOR}", self.of),
            Against::Peer(name) => write!(f, "{} / {name}", self.of),
            Against::Nothing => write!(f, "{}, a second", self.of),
            Against::Special(what) => write!(f, "{}: {what}", self.of),
        }
    }
}

/// `11.4 k/s`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        1e6.. => format!("{:.2} M/s", per_second / 1e6),
        1e3.. => format!("{:.1} k/s", per_second / 1e3),
        _ => format!("{per_second:.1}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str, rates: &[f64], durable: Option<bool>) -> Measured {
        let round = |per_second: &f64| crate::rounds::Round {
            per_second: *per_second,
            latency: None,
            flushes_per_second: None,
            flushes_per_operation: None,
            journal_commits_per_operation: None,
            others: 0.0,
            dirty: false,
        };
        let rounds = rates.iter().map(round).collect();
        Measured { name: name.into(), per_second: Spread::of(rates), durable, failed: None, rounds }
    }

    #[test]
    fn a_peer_is_represented_by_its_fastest_setting() {
        let cells = [
            cell("Seawall", &[100.0, 200.0, 300.0], Some(true)),
            cell("RocksDB", &[50.0, 50.0, 50.0], Some(true)),
            cell("RocksDB tuned", &[100.0, 100.0, 100.0], Some(true)),
        ];
        let check = at_least(SEAWALL, ROCKSDB, 2.0, 2.5).check(&cells, |_| None);
        assert_eq!((check.measured, check.met, check.moonshot_met), (Some(2.0), Some(true), Some(false)));
        assert_eq!(check.what, "Seawall / RocksDB");
        assert_eq!(check.bar.as_deref(), Some("≥ 2.00x"));
    }

    #[test]
    fn what_was_not_measured_is_not_met_and_not_failed() {
        let check = at_least(SEAWALL, ROCKSDB, 2.0, 2.5).check(&[cell("Seawall", &[1.0], None)], |_| None);
        assert_eq!((check.measured, check.met), (None, None));
    }

    #[test]
    fn a_peer_that_broke_its_promise_is_not_compared_with() {
        let cells = [cell("Seawall", &[1.0], Some(true)), cell("RocksDB", &[9.0], Some(false))];
        assert_eq!(at_least(SEAWALL, ROCKSDB, 2.0, 2.5).check(&cells, |_| None).measured, None);
    }

    #[test]
    fn less_is_good_where_a_bar_says_at_most() {
        let check = LATENCY[0].check(&[], |_| Spread::of(&[2.4, 2.5, 3.5]));
        assert_eq!((check.met, check.moonshot_met), (Some(true), Some(false)));
        assert_eq!(check.close, Some(true), "one round did not meet it");
    }

    #[test]
    fn a_moonshot_is_never_lower_than_its_bar() {
        let tables = [
            LOG_ONE,
            LOG_THREADS,
            LOG_TASKS,
            LATENCY,
            DURABLE_64,
            DURABLE_1,
            DURABLE_8,
            PUT,
            GET_MEMTABLE,
            GET_TABLE,
            COLD,
            SCAN,
            RECOVERY,
        ];
        for bar in tables.into_iter().flatten() {
            match (bar.bar, bar.moonshot) {
                (Some(Limit::AtLeast(bar)), Some(Limit::AtLeast(moonshot))) => assert!(moonshot >= bar),
                (Some(Limit::AtMost(bar)), Some(Limit::AtMost(moonshot))) => assert!(moonshot <= bar),
                (Some(_), Some(_)) => panic!("{bar}: its limits look in different directions"),
                _ => {}
            }
        }
    }

    #[test]
    fn rates_are_read_at_a_glance() {
        assert_eq!([rate(12.34), rate(11_380.0), rate(4_010_000.0)], ["12.3/s", "11.4 k/s", "4.01 M/s"]);
    }
}
