//! The table of planted bugs is complete, and says nothing of bugs that there are not.

use std::collections::BTreeSet;

use seawall_mutants::table::ROWS;
use seawall_mutants::trial::VARIABLE;

#[test]
fn every_bug_has_one_row_and_every_row_a_bug() {
    assert_eq!(VARIABLE, seawall_wal::mutant::VARIABLE);
    let log = seawall_wal::mutant::Mutant::ALL.iter().map(|bug| bug.name());
    let engine = seawall_engine::mutant::Mutant::ALL.iter().map(|bug| bug.name());
    let replication = seawall_replication::mutant::Mutant::ALL.iter().map(|bug| bug.name());
    let backup = seawall_backup::mutant::Mutant::ALL.iter().map(|bug| bug.name());
    let bugs: BTreeSet<String> = log.chain(engine).chain(replication).chain(backup).collect();
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.bug.to_owned()).collect();
    assert_eq!(rows.len(), ROWS.len(), "a bug has two rows");
    let without_row: Vec<_> = bugs.difference(&rows).collect();
    let without_bug: Vec<_> = rows.difference(&bugs).collect();
    assert!(without_row.is_empty(), "these bugs have no row: {without_row:?}");
    assert!(without_bug.is_empty(), "these rows are of no bug: {without_bug:?}");
}
