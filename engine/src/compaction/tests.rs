use super::*;
use crate::manifest::LEVELS;

const SHAPE: Shape = Shape { level0_tables: 4, level1_bytes: 100, table_bytes: 50 };

fn meta(min: &str, max: &str, size: u64) -> TableMeta {
    TableMeta {
        hash: TableHash::from_bytes([0; 32]),
        size,
        entries: 1,
        tombstones: 0,
        range_deletes: 0,
        min_lsn: Lsn::new(1),
        max_lsn: Lsn::new(1),
        min_expiry: 0,
        max_expiry: 0,
        min_key: min.into(),
        max_key: max.into(),
        max_key_excluded: false,
    }
}

fn levels(metas: &[Vec<TableMeta>]) -> Vec<Vec<&TableMeta>> {
    let mut levels: Vec<Vec<&TableMeta>> = metas.iter().map(|level| level.iter().collect()).collect();
    levels.resize(LEVELS, Vec::new());
    levels
}

#[test]
fn nothing_is_merged_while_levels_have_room() {
    let metas = [vec![meta("a", "z", 10); 3], vec![meta("a", "z", 99)]];
    assert_eq!(pick(&levels(&metas), &SHAPE), None);
}

#[test]
fn level_0_is_merged_whole_with_what_it_overlaps() {
    let metas = [vec![meta("c", "e", 10); 4], vec![meta("a", "b", 20), meta("d", "f", 20), meta("g", "h", 20)]];
    let expected = Pick { inputs: vec![(0, vec![0, 1, 2, 3]), (1, vec![1])], to: 1, bottom: true };
    assert_eq!(pick(&levels(&metas), &SHAPE), Some(expected));
}

#[test]
fn deletes_stay_while_something_lies_below_even_beside_the_inputs() {
    // The inputs end at `e`, but the table they merge with reaches to `k`, below which there is something.
    let metas = [vec![meta("c", "e", 10); 4], vec![meta("d", "k", 20)], vec![meta("j", "m", 20)]];
    assert!(!pick(&levels(&metas), &SHAPE).unwrap().bottom);
}

#[test]
fn a_full_level_moves_the_table_that_costs_least() {
    let metas = [vec![], vec![meta("a", "c", 60), meta("d", "f", 60)], vec![meta("a", "b", 300), meta("e", "e", 30)]];
    let expected = Pick { inputs: vec![(1, vec![1]), (2, vec![1])], to: 2, bottom: true };
    assert_eq!(pick(&levels(&metas), &SHAPE), Some(expected));
}
