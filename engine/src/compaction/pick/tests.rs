use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::file::FileHash;
use crate::mutant::with_mutant;

const SHAPE: Shape = Shape { level0_tables: 4, level1_bytes: 100, table_bytes: 50, blob_least: None };
const FLOOR: Lsn = Lsn::ZERO;

fn meta(min: &str, max: &str, size: u64) -> TableMeta {
    TableMeta {
        hash: FileHash::from_bytes([0; 32]),
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

pub(in crate::compaction) fn levels(metas: &[Vec<TableMeta>]) -> Vec<Vec<&TableMeta>> {
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

#[test]
fn a_neighbour_that_begins_beside_a_table_below_does_not_go_along() {
    let up_to = |min, max, size| TableMeta { range_deletes: 1, max_key_excluded: true, ..meta(min, max, size) };
    let metas = [vec![], vec![meta("c", "d", 90), meta("k", "m", 90)], vec![up_to("c", "m", 90), meta("m", "z", 900)]];
    // `m` is not in the first table below, but where it ends; it is in the second one.
    assert_eq!(pick(&levels(&metas), &SHAPE, FLOOR), merge(&[(1, &[0]), (2, &[0])], 2, true));
}

/// Tables as a keyspace may have them: level 0 overlaps as it likes, others do not.
fn random_metas(random: &mut StdRng) -> Vec<Vec<TableMeta>> {
    let key = |number: usize| format!("{number:02}");
    let size = |random: &mut StdRng, level: u32| random.random_range(1..60 * 4_u64.pow(level));
    let mut metas = Vec::new();
    for level in 0..4 {
        let mut tables = Vec::new();
        let mut from = 0;
        for nth in 0..random.random_range(0..12) {
            let (min, max) = match level {
                0 => {
                    let (a, b) = (random.random_range(0..100), random.random_range(0..100));
                    (a.min(b), a.max(b))
                }
                _ => (from + random.random_range(0..8), from + 8 + random.random_range(0..8)),
            };
            // A table that is cut through a delete of a range ends where the next one begins.
            let max_key_excluded = level > 0 && random.random_bool(0.3);
            from = max + usize::from(!max_key_excluded);
            if level > 0 && max > 99 {
                break;
            }
            let tombstones = if random.random_bool(0.1) { 9 } else { 0 };
            let max_lsn = Lsn::new(1_000 - 100 * level - nth);
            let size = size(random, level as u32);
            let range_deletes = u64::from(max_key_excluded);
            let rest = meta(&key(min), &key(max), size);
            tables.push(TableMeta { tombstones, range_deletes, max_key_excluded, max_lsn, ..rest });
        }
        metas.push(tables);
    }
    metas
}

/// What must hold of every pick, or a reader finds an older version before a newer one, or one that was deleted.
fn check(levels: &Metas<'_>, pick: &Pick) {
    let picked = |level: usize, index: usize| {
        pick.inputs.iter().any(|(input, indexes)| *input == level && indexes.contains(&index))
    };
    let all = || (0..LEVELS).flat_map(|level| (0..levels[level].len()).map(move |index| (level, index)));
    let overlap = |a: (usize, usize), b: (usize, usize)| {
        let (a, b) = (levels[a.0][a.1], levels[b.0][b.1]);
        !a.ends_before(&b.min_key) && !b.ends_before(&a.min_key)
    };
    let inputs: Vec<_> = all().filter(|(level, index)| picked(*level, *index)).collect();
    let others: Vec<_> = all().filter(|(level, index)| !picked(*level, *index)).collect();
    assert!(inputs.iter().all(|(level, _)| *level <= pick.to) && !inputs.is_empty(), "tables go down");
    for &input in &inputs {
        for &other in others.iter().filter(|other| overlap(input, **other)) {
            // Of one key, who stands before is newer.
            let older = other > input;
            match pick.to {
                0 => assert!(!older || inputs.iter().all(|input| *input < other), "{other:?} stands between"),
                to => {
                    assert!(!older || other.0 > to, "{other:?} is older than {input:?} and stays above it, or beside")
                }
            }
            assert!(!(pick.bottom && older), "{other:?} may have what deletes of {input:?} hide");
        }
    }
    match pick.way {
        Way::Merge if pick.to > 0 => {
            let metas = || inputs.iter().map(|(level, index)| levels[*level][*index]);
            let (min, _) = range(metas());
            let beside = others.iter().find(|(level, index)| {
                let other = levels[*level][*index];
                let reached = metas().any(|meta| !meta.ends_before(&other.min_key));
                *level == pick.to && reached && !other.ends_before(min)
            });
            assert_eq!(beside, None, "an output may overlap what stays on its level");
        }
        Way::Merge => {}
        Way::Move => {
            let rivals = |input: &(usize, usize)| inputs.iter().any(|other| other != input && overlap(*input, *other));
            assert!(!inputs.iter().any(rivals), "tables that are moved overlap each other");
        }
    }
}

/// How many picks there were of tables by seed, all of them right.
fn check_picks() -> usize {
    let mut picks = 0;
    for seed in 0..4_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let metas = random_metas(&mut random);
        let levels = levels(&metas);
        if let Some(pick) = pick(&levels, &SHAPE, Lsn::new(random.random_range(0..1_000))) {
            picks += 1;
            check(&levels, &pick);
        }
    }
    picks
}

#[test]
fn whatever_is_picked_versions_stay_in_their_order_and_deletes_until_they_hide_nothing() {
    assert!(check_picks() > 1_000);
}

#[test]
fn picks_of_the_wrong_tables_are_noticed() {
    for mutant in [
        Mutant::PickIgnoresTheNextLevel,
        Mutant::PickTakesTheNewestFirst,
        Mutant::PickSeesTheBottomEverywhere,
        Mutant::PickMovesOntoOthers,
    ] {
        let survived = catch_unwind(AssertUnwindSafe(|| with_mutant(mutant, check_picks)));
        assert!(survived.is_err(), "{mutant:?} survives");
    }
}
