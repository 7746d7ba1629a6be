//! Reading many keys at one LSN: sorted, so that each block is visited once; memtables first, then the tables level by level.

use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::Lsn;

use crate::error::Result;
use crate::format::KeyspaceId;
use crate::mutant::{Mutant, planted};
use crate::table::{Found, Table, filter_hash};
use crate::version::View;

/// Blocks that are read together, and held until their keys are answered: as many as a disk gains from.
const BLOCKS_MAX: usize = 32;

/// A key that was not found yet.
struct Wanted<'a> {
    key: &'a [u8],
    /// In the table filters.
    hash: u64,
    /// Where its value goes.
    place: usize,
}

/// The values of `keys` as of `at`, which is not below the view's floor, in the order of `keys`.
pub(crate) fn multi_get(view: &View, keyspace: KeyspaceId, at: Lsn, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
    debug_assert!(at >= view.floor);
    let mut values = vec![None; keys.len()];
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_unstable_by_key(|place| keys[*place]);
    let mut wanted = Vec::new();
    'keys: for (rank, &place) in order.iter().enumerate() {
        let key = keys[place];
        let place = if planted(Mutant::ManyAnsweredInKeyOrder) { rank } else { place };
        let sets = std::iter::once(&view.active).chain(view.frozen.iter().rev().map(|frozen| &frozen.set));
        for set in sets {
            if let Some(found) = set.get(keyspace, key, at) {
                values[place] = found;
                continue 'keys;
            }
        }
        wanted.push(Wanted { key, hash: filter_hash(key), place });
    }
    let Some(levels) = view.tables.levels(keyspace) else { return Ok(values) };
    for table in levels.level(0) {
        wanted = look(table, at, wanted, &mut values)?;
    }
    for (_, tables) in levels.iter().skip(1) {
        let mut left = Vec::new();
        let mut rest = wanted;
        for table in tables {
            // Tables of one level do not overlap, so that each takes the keys up to its greatest.
            let behind = rest.partition_point(|wanted| !table.meta().ends_before(wanted.key));
            let behind = rest.split_off(behind);
            left.extend(look(table, at, std::mem::replace(&mut rest, behind), &mut values)?);
        }
        left.extend(rest);
        wanted = left;
    }
    Ok(values)
}

/// Looks for keys in one table. Gives back those it says nothing of, in order.
fn look<'a>(
    table: &Arc<Table>,
    at: Lsn,
    wanted: Vec<Wanted<'a>>,
    values: &mut [Option<Bytes>],
) -> Result<Vec<Wanted<'a>>> {
    let mut numbers = Vec::with_capacity(wanted.len());
    for wanted in &wanted {
        numbers.push(table.block_of(wanted.key, wanted.hash, at)?);
    }
    let mut distinct: Vec<usize> = numbers.iter().flatten().copied().collect();
    distinct.dedup();
    let mut left = Vec::new();
    let mut wanted = wanted.into_iter().zip(numbers).peekable();
    for chunk in distinct.chunks(BLOCKS_MAX) {
        let blocks = table.blocks(chunk)?;
        let last = chunk[chunk.len() - 1];
        while let Some((wanted, number)) = wanted.next_if(|(_, number)| number.is_none_or(|number| number <= last)) {
            let block = number.map(|number| &blocks[chunk.partition_point(|other| *other < number)]);
            match block.map_or(Ok(Found::Nothing), |block| table.get_in_block(block, wanted.key, at))? {
                Found::Value(value) => values[wanted.place] = Some(value),
                Found::Deleted => {}
                Found::Nothing => left.push(wanted),
            }
        }
    }
    left.extend(wanted.map(|(wanted, _)| wanted));
    Ok(left)
}
