use super::*;
use crate::table::TableHash;

const SHAPE: Shape = Shape { level0_tables: 4, level1_bytes: 100, table_bytes: 50 };
const FLOOR: Lsn = Lsn::ZERO;

fn meta(min: &str, max: &str, size: u64) -> TableMeta {
    TableMeta {
        hash: TableHash::from_bytes([0; 32]),
        size,
        entries: 10,
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

fn merge(inputs: &[(usize, &[usize])], to: usize, bottom: bool) -> Option<Pick> {
    let inputs = inputs.iter().map(|(level, indexes)| (*level, indexes.to_vec())).collect();
    Some(Pick { inputs, to, bottom, way: Way::Merge })
}

#[test]
fn nothing_is_merged_while_levels_have_room() {
    let metas = [vec![meta("a", "z", 10); 3], vec![meta("a", "z", 99)]];
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), None);
    assert_eq!(debt_bytes(&levels(&metas), &SHAPE), 0);
}

#[test]
fn debt_is_level_0_from_its_trigger_on_and_what_levels_have_beyond_their_targets() {
    let metas = [vec![meta("a", "z", 10); 4], vec![meta("a", "z", 130)], vec![meta("a", "z", 1_005)]];
    assert_eq!(debt_bytes(&levels(&metas), &SHAPE), 40 + 30 + 5);
}

#[test]
fn level_0_is_merged_with_what_it_overlaps() {
    let metas = [vec![meta("c", "e", 10); 4], vec![meta("a", "b", 20), meta("d", "f", 20), meta("g", "h", 20)]];
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), merge(&[(0, &[0, 1, 2, 3]), (1, &[1])], 1, true));
}

#[test]
fn the_oldest_of_a_deep_level_0_go_first() {
    // As many as there are twice the bytes of level 1: the oldest stand last.
    let metas = [vec![meta("c", "e", 40); 9], vec![meta("d", "f", 20)]];
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), merge(&[(0, &[4, 5, 6, 7, 8]), (1, &[0])], 1, true));
}

#[test]
fn small_tables_of_level_0_are_merged_with_each_other_rather_than_with_much_below() {
    let below = vec![meta("a", "z", 90)];
    let metas = [vec![meta("a", "z", 2); 4], below.clone()];
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), merge(&[(0, &[0, 1, 2, 3])], 0, false));
    // What was merged before is left alone until the newer ones are as much as half of it.
    let tiers = |sizes: &[u64]| sizes.iter().map(|size| meta("a", "z", *size)).collect::<Vec<_>>();
    let metas = [tiers(&[1, 1, 1, 8]), below.clone()];
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), merge(&[(0, &[0, 1, 2])], 0, false));
    let metas = [tiers(&[1, 1, 3, 8]), below];
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), merge(&[(0, &[0, 1, 2, 3])], 0, false));
}

#[test]
fn a_merge_within_level_0_keeps_deletes_unless_nothing_older_overlaps() {
    let metas = [vec![meta("a", "c", 1), meta("a", "c", 1), meta("a", "c", 1), meta("x", "z", 9)], vec![]];
    let merged = pick(&levels(&metas), &Shape { level1_bytes: 1, ..SHAPE }, FLOOR).unwrap();
    assert_eq!((merged.to, merged.way), (1, Way::Move), "the table that nothing overlaps is moved first");
    let metas = [vec![meta("a", "c", 1); 4], vec![meta("a", "b", 100)]];
    assert!(!pick(&levels(&metas), &SHAPE, FLOOR).unwrap().bottom);
}

#[test]
fn deletes_stay_while_something_lies_below_even_beside_the_inputs() {
    // The inputs end at `e`, but the table they merge with reaches to `k`, below which there is something.
    let metas = [vec![meta("c", "e", 10); 4], vec![meta("d", "k", 20)], vec![meta("j", "m", 20)]];
    assert!(!pick(&levels(&metas), &SHAPE, FLOOR).unwrap().bottom);
}

#[test]
fn a_full_level_moves_the_table_that_costs_least() {
    let metas = [vec![], vec![meta("a", "c", 60), meta("d", "f", 60)], vec![meta("a", "b", 300), meta("e", "e", 30)]];
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), merge(&[(1, &[1]), (2, &[1])], 2, true));
}

#[test]
fn neighbours_that_overlap_no_more_go_along() {
    let metas = [vec![], vec![meta("b", "c", 60), meta("d", "f", 60)], vec![meta("a", "k", 300), meta("l", "z", 300)]];
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), merge(&[(1, &[0, 1]), (2, &[0])], 2, true));
}

#[test]
fn keys_that_come_in_order_are_moved_into_level_1_and_compressed_on_the_way_to_level_2() {
    let metas = [vec![meta("g", "h", 10), meta("e", "f", 10), meta("c", "d", 10), meta("a", "b", 10)]];
    let moved = Pick { inputs: vec![(0, vec![0, 1, 2, 3])], to: 1, bottom: false, way: Way::Move };
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), Some(moved));
    let metas = [vec![], vec![meta("a", "b", 60), meta("c", "d", 60)]];
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), merge(&[(1, &[0])], 2, true));
    let metas = [vec![], vec![], vec![meta("a", "b", 600), meta("c", "d", 600)], vec![meta("a", "b", 1)]];
    let moved = Pick { inputs: vec![(2, vec![1])], to: 3, bottom: false, way: Way::Move };
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), Some(moved));
}

#[test]
fn a_table_of_old_deletes_goes_down_to_what_it_hides_and_then_away() {
    let deletes = TableMeta { tombstones: 6, max_lsn: Lsn::new(9), ..meta("c", "d", 10) };
    let above = [vec![], vec![meta("a", "b", 10), deletes.clone()], vec![meta("e", "f", 10)], vec![meta("c", "c", 50)]];
    assert_eq!(pick(&levels(&above), &SHAPE, Lsn::new(8)), None, "a reader may need what they hide");
    assert_eq!(pick(&levels(&above), &SHAPE, Lsn::new(9)), merge(&[(1, &[1])], 2, false));
    let lowest = [vec![], vec![], vec![], vec![deletes]];
    assert_eq!(pick(&levels(&lowest), &SHAPE, Lsn::new(9)), merge(&[(3, &[0])], 3, true));
}

#[test]
fn a_merge_is_cut_at_the_tables_of_its_lower_level_into_parts_of_equal_bytes() {
    let below: Vec<_> = ["a", "e", "i", "m"].iter().map(|key| meta(key, &format!("{key}z"), 50)).collect();
    let metas = [vec![meta("a", "z", 20); 4], below];
    let metas = levels(&metas);
    let whole = pick(&metas, &Shape { level1_bytes: 1_000, ..SHAPE }, FLOOR).unwrap();
    let keys = |cuts: Vec<Vec<u8>>| cuts.into_iter().map(|cut| String::from_utf8(cut).unwrap()).collect::<Vec<_>>();
    assert_eq!(keys(cuts(&metas, &whole, 2, 50)), ["i"]);
    assert_eq!(keys(cuts(&metas, &whole, 4, 50)), ["e", "i", "m"]);
    assert_eq!(keys(cuts(&metas, &whole, 4, 100)), ["i"], "no part is smaller than that");
    assert!(cuts(&metas, &whole, 1, 1).is_empty());
    let metas = [vec![meta("a", "z", 2); 4], vec![meta("a", "z", 90)]];
    let within = pick(&levels(&metas), &SHAPE, FLOOR).unwrap();
    assert!(cuts(&levels(&metas), &within, 4, 1).is_empty(), "what is merged within level 0 stays one table");
}
