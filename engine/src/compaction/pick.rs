//! What to merge next: a pure function of the sizes, ranges and LSNs of a keyspace's tables.

use seawall_wal::Lsn;

use crate::blob::BlobPolicy;
use crate::manifest::LEVELS;
use crate::mutant::{Mutant, planted};
use crate::table::{Placement, TableMeta};

/// How much larger a level is than the one above it.
const GROWTH: u64 = 10;
/// Bytes of level 1 for each byte of level 0 from which on a merge of both is too dear.
const DEAR: u64 = 4;
/// A tier joins a merge of newer ones if it is at most so many times as large as all of them.
const TIER_GROWTH: u64 = 2;

/// When levels are too full, how large tables get, and which values are not in them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Tables of level 0 that start a merge.
    pub(crate) level0_tables: usize,
    /// Bytes of level 1; each deeper level may have ten times as many.
    pub(crate) level1_bytes: u64,
    /// Bytes of one table, and of one blob file.
    pub(crate) table_bytes: u64,
    /// Bytes from which on a value goes to a blob file, if any does.
    pub(crate) blob_least: Option<usize>,
}

impl Shape {
    /// Which values go to blob files.
    pub(crate) fn blob_policy(&self) -> BlobPolicy {
        BlobPolicy { least: self.blob_least, file_bytes: self.table_bytes }
    }

    /// Bytes a level below level 0 may have.
    pub(crate) fn target(&self, level: usize) -> u64 {
        (1..level).fold(self.level1_bytes, |bytes, _| bytes.saturating_mul(GROWTH))
    }
}

/// How the chosen tables get where they are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Their versions are written anew.
    Merge,
    /// As they are: nothing there overlaps them.
    Move,
}

/// What to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Levels, from above, and which of their tables by position.
    pub(crate) inputs: Vec<(usize, Vec<usize>)>,
    /// The level that gets the result: the deepest of the inputs, or the one below.
    pub(crate) to: usize,
    /// Whether nothing older than the inputs overlaps them, so that deletes need not be kept.
    pub(crate) bottom: bool,
    pub(crate) way: Way,
}

/// Tables of a keyspace by level; level 0 from newest to oldest, others by key.
pub(crate) type Metas<'a> = Vec<Vec<&'a TableMeta>>;

/// How full a level is; from 1 on it is too full.
pub(crate) fn fullness(levels: &Metas<'_>, shape: &Shape, level: usize) -> f64 {
    match level {
        0 => levels[0].len() as f64 / shape.level0_tables as f64,
        _ => bytes(&levels[level]) as f64 / shape.target(level) as f64,
    }
}

/// How full the fullest level is that can be relieved.
pub(crate) fn fullest(levels: &Metas<'_>, shape: &Shape) -> f64 {
    (0..LEVELS - 1).map(|level| fullness(levels, shape, level)).fold(0.0, f64::max)
}

/// Bytes that levels have beyond what they may: all of level 0 from its trigger on.
pub(crate) fn debt_bytes(levels: &Metas<'_>, shape: &Shape) -> u64 {
    let level0 = if levels[0].len() >= shape.level0_tables { bytes(&levels[0]) } else { 0 };
    let below = (1..LEVELS - 1).map(|level| bytes(&levels[level]).saturating_sub(shape.target(level)));
    level0 + below.sum::<u64>()
}

/// Which tables of a keyspace to merge next, if any level is too full, or if one is mostly deletes that nobody needs.
/// No reader needs what lies behind a version at or below `floor`.
pub(crate) fn pick(levels: &Metas<'_>, shape: &Shape, floor: Lsn) -> Option<Pick> {
    let mut full: Vec<_> = (0..LEVELS - 1).map(|level| (level, fullness(levels, shape, level))).collect();
    full.retain(|(_, full)| *full >= 1.0);
    // Of equally full levels the higher one goes first: it is read more often.
    full.sort_by(|(a, full_a), (b, full_b)| full_b.total_cmp(full_a).then(a.cmp(b)));
    match full.first() {
        Some((0, _)) => Some(pick_level0(levels, shape)),
        Some((level, _)) => Some(pick_level(levels, *level)),
        None => pick_deletes(levels, floor),
    }
}

/// Everything of a keyspace into its deepest level in use, rewritten also if it is alone there.
pub(crate) fn pick_all(levels: &Metas<'_>) -> Option<Pick> {
    let used = (0..levels.len()).filter(|level| !levels[*level].is_empty());
    let inputs: Vec<_> = used.map(|level| (level, (0..levels[level].len()).collect())).collect();
    let to = inputs.last()?.0.max(1);
    Some(Pick { inputs, to, bottom: true, way: Way::Merge })
}

fn pick_level0(levels: &Metas<'_>, shape: &Shape) -> Pick {
    let tables = &levels[0];
    let alone = |index: &usize| {
        let meta = tables[*index];
        let others = tables.iter().enumerate().filter(|(other, _)| other != index);
        let mut rivals = others.map(|(_, other)| other).chain(&levels[1]);
        !mostly_deletes(meta) && !rivals.any(|other| other.overlaps(&meta.min_key, &meta.max_key))
    };
    let alone: Vec<_> = (0..tables.len()).filter(alone).collect();
    if !alone.is_empty() && Placement::on_level(0) == Placement::on_level(1) {
        return Pick { inputs: vec![(0, alone)], to: 1, bottom: false, way: Way::Move };
    }
    // The oldest go first, because what they hide lies below; at least as many as start a merge.
    let mut first = tables.len();
    let mut taken = 0;
    while first > 0 && (tables.len() - first < shape.level0_tables || taken < 2 * shape.level1_bytes) {
        first -= 1;
        taken += tables[first].size;
    }
    let down = match planted(Mutant::PickTakesTheNewestFirst) {
        true => complete(levels, 0, (0..tables.len() - first).collect()),
        false => complete(levels, 0, (first..tables.len()).collect()),
    };
    let overlapped = down.inputs.get(1).map_or(0, |(_, below)| below.iter().map(|index| levels[1][*index].size).sum());
    if overlapped <= DEAR * taken {
        return down;
    }
    match tier(tables) {
        0 | 1 => down,
        count => {
            let (min, max) = range(tables[..count].iter().copied());
            let older = tables[count..].iter().chain(levels[1..].iter().flatten());
            let bottom = !older.into_iter().any(|meta| meta.overlaps(min, max));
            Pick { inputs: vec![(0, (0..count).collect())], to: 0, bottom, way: Way::Merge }
        }
    }
}

/// How many of the newest tables of level 0 are alike enough in size to be merged with each other.
fn tier(tables: &[&TableMeta]) -> usize {
    let mut sum = 0;
    let joins = |meta: &&&TableMeta| {
        let joins = sum == 0 || meta.size <= TIER_GROWTH * sum;
        sum += meta.size;
        joins
    };
    tables.iter().take_while(joins).count()
}

fn pick_level(levels: &Metas<'_>, from: usize) -> Pick {
    let to = from + 1;
    let chosen = cheapest(&levels[from], &levels[to]);
    let meta = levels[from][chosen];
    let free = !levels[to].iter().any(|other| other.overlaps(&meta.min_key, &meta.max_key));
    let free = free || planted(Mutant::PickMovesOntoOthers);
    if free && !mostly_deletes(meta) && Placement::on_level(from) == Placement::on_level(to) {
        return Pick { inputs: vec![(from, vec![chosen])], to, bottom: false, way: Way::Move };
    }
    complete(levels, from, vec![chosen])
}

/// A table that is mostly deletes and hides things below, or nothing any more.
fn pick_deletes(levels: &Metas<'_>, floor: Lsn) -> Option<Pick> {
    (1..LEVELS).find_map(|level| {
        let due = |meta: &&TableMeta| mostly_deletes(meta) && meta.max_lsn <= floor;
        let chosen = levels[level].iter().position(due)?;
        let meta = levels[level][chosen];
        let deeper = levels[level + 1..].iter().flatten();
        match deeper.into_iter().any(|other| other.overlaps(&meta.min_key, &meta.max_key)) {
            true => Some(complete(levels, level, vec![chosen])),
            false => Some(Pick { inputs: vec![(level, vec![chosen])], to: level, bottom: true, way: Way::Merge }),
        }
    })
}

fn mostly_deletes(meta: &TableMeta) -> bool {
    meta.tombstones > meta.entries / 2
}

/// The chosen tables of a level with all they overlap in the next one, and then those of their own level that overlap no
/// more than that.
fn complete(levels: &Metas<'_>, from: usize, mut chosen: Vec<usize>) -> Pick {
    let to = from + 1;
    let overlapping = |level: usize, min: &[u8], max: &[u8]| -> Vec<usize> {
        let metas = levels[level].iter().enumerate();
        metas.filter(|(_, meta)| meta.overlaps(min, max)).map(|(index, _)| index).collect()
    };
    let (min, max) = range(chosen.iter().map(|index| levels[from][*index]));
    let below = if planted(Mutant::PickIgnoresTheNextLevel) { Vec::new() } else { overlapping(to, min, max) };
    let all = below.iter().map(|index| levels[to][*index]).chain(chosen.iter().map(|index| levels[from][*index]));
    let last = all.clone().map(end).max();
    let (min, max) = range(all);
    if from > 0 {
        let within = |meta: &TableMeta| min <= meta.min_key.as_slice() && Some(end(meta)) <= last;
        chosen = (0..levels[from].len()).filter(|index| within(levels[from][*index])).collect();
    }
    let bottom = (to + 1..levels.len()).all(|level| overlapping(level, min, max).is_empty());
    let bottom = bottom || planted(Mutant::PickSeesTheBottomEverywhere);
    let mut inputs = vec![(from, chosen)];
    if !below.is_empty() {
        inputs.push((to, below));
    }
    Pick { inputs, to, bottom, way: Way::Merge }
}

/// The table whose move rewrites least of the next level for its size.
fn cheapest(tables: &[&TableMeta], below: &[&TableMeta]) -> usize {
    let cost = |meta: &TableMeta| {
        let first = below.partition_point(|other| other.max_key < meta.min_key);
        let overlapping = below[first..].iter().take_while(|other| other.min_key <= meta.max_key);
        overlapping.map(|other| other.size).sum::<u64>() as f64 / meta.size as f64
    };
    let costs: Vec<f64> = tables.iter().map(|meta| cost(meta)).collect();
    (0..tables.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).expect("a level that is too full has tables")
}

fn bytes(tables: &[&TableMeta]) -> u64 {
    tables.iter().map(|meta| meta.size).sum()
}

fn range<'a>(metas: impl Iterator<Item = &'a TableMeta> + Clone) -> (&'a [u8], &'a [u8]) {
    let min = metas.clone().map(|meta| meta.min_key.as_slice()).min().expect("a pick has inputs");
    let max = metas.map(|meta| meta.max_key.as_slice()).max().expect("a pick has inputs");
    (min, max)
}

/// Where a table ends, in the order of ends: a key that it has is behind the same key as one before which it ends. There,
/// the next table may begin.
fn end(meta: &TableMeta) -> (&[u8], bool) {
    (&meta.max_key, !meta.max_key_excluded)
}

/// Where to cut a merge by keys so that at most `parts` of at least `least_bytes` come out: keys with which parts begin.
/// The bounds of the deepest level's tables are what is known without reading.
pub(crate) fn cuts(levels: &Metas<'_>, pick: &Pick, parts: usize, least_bytes: u64) -> Vec<Vec<u8>> {
    let sizes = pick.inputs.iter().flat_map(|(level, indexes)| indexes.iter().map(|index| levels[*level][*index].size));
    let all: u64 = sizes.sum();
    let parts = parts.min((all / least_bytes.max(1)) as usize) as u64;
    let Some((level, deepest)) = pick.inputs.last().filter(|(level, _)| *level > 0 && parts > 1) else {
        return Vec::new();
    };
    let tables: Vec<&TableMeta> = deepest.iter().map(|index| levels[*level][*index]).collect();
    let total = bytes(&tables);
    let mut before = 0;
    let mut cuts = Vec::new();
    for meta in tables {
        // At the first bound behind each n-th of the bytes.
        if before > 0 && before * parts >= total * (cuts.len() as u64 + 1) {
            cuts.push(meta.min_key.clone());
        }
        before += meta.size;
    }
    cuts
}

#[cfg(test)]
pub(super) mod tests;
