//! `seawall bench`: measures what a node would live on.

mod commit;
mod device;
mod disk;
mod scratch;

use clap::Subcommand;

use super::Context;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// What a disk can do: synced writes by each method, bandwidth, and the log's own commits beside them
    Disk(disk::Arguments),
    /// What a durable commit costs here, and which part of it is the disk's
    Commit(commit::Arguments),
}

pub(super) fn run(verb: &Verb, context: &Context) -> Result<(), Failure> {
    match verb {
        Verb::Disk(arguments) => disk::run(arguments, context),
        Verb::Commit(arguments) => commit::run(arguments, context),
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len.is_multiple_of(2) => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
        len => sorted[len / 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
