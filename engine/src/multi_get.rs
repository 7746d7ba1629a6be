//! Reading many keys at one LSN: memtables first; what is not there sorted, so that each block is visited once, and then the
//! tables level by level.

use std::sync::Arc;

use crate::error::Result;
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::mutant::{Mutant, planted};
use crate::resolve::{Resolver, Value};
use crate::table::{BlockPlace, Content, Table, filter_hash};
use crate::version::{Levels, View};

/// Blocks that are read together, and held until their keys are answered: as many as a disk gains from.
const BLOCKS_MAX: usize = 32;

/// A key whose value does not follow yet from what was found.
struct Wanted<'a> {
    key: &'a [u8],
    /// In the table filters.
    hash: u64,
    /// Where its value goes.
    place: usize,
    /// What is known of it.
    resolver: Resolver,
}

/// The values of `keys` as of `at`, which is not below the view's floor, in the order of `keys`.
pub(crate) fn multi_get(view: &View, keyspace: KeyspaceId, at: Moment, keys: &[&[u8]]) -> Result<Vec<Option<Value>>> {
    debug_assert!(at.lsn >= view.floor);
    let mut values = vec![None; keys.len()];
    let mut wanted = Vec::new();
    let covers = view.covers(keyspace)?;
    for (place, &key) in keys.iter().enumerate() {
        let mut resolver = Resolver::under(covers.over(key, at.lsn).as_ref());
        match view.versions_in_memory(keyspace, key, at.lsn, &mut resolver) {
            true => values[place] = resolver.finish(at)?,
            false => wanted.push(Wanted { key, hash: filter_hash(key), place, resolver }),
        }
    }
    wanted.sort_unstable_by_key(|wanted| wanted.key);
    if planted(Mutant::ManyAnsweredInKeyOrder) {
        let mut places: Vec<usize> = wanted.iter().map(|wanted| wanted.place).collect();
        places.sort_unstable();
        wanted.iter_mut().zip(places).for_each(|(wanted, place)| wanted.place = place);
    }
    let mut answers = Answers { values, large: Vec::new() };
    let none = Levels::default();
    let levels = view.tables.levels(keyspace).map_or(&none, |levels| levels);
    for table in levels.level(0) {
        let places = places(table, at, &wanted)?;
        wanted = look(table, at, wanted, places, &mut answers)?;
    }
    for (_, tables) in levels.iter().skip(1) {
        let mut shares = Vec::new();
        let mut rest = wanted;
        for table in tables {
            // Tables of one level do not overlap, so that each takes the keys up to its greatest.
            let behind = rest.partition_point(|wanted| !table.meta().ends_before(wanted.key));
            let behind = rest.split_off(behind);
            let share = std::mem::replace(&mut rest, behind);
            if !share.is_empty() {
                let places = places(table, at, &share)?;
                shares.push((table, share, places));
            }
        }
        // One table is read after the other; what the later ones need is on its way meanwhile.
        for (table, _, places) in shares.iter().skip(1) {
            table.ask_for_blocks(places.iter().flatten().take(BLOCKS_MAX))?;
        }
        let mut left = Vec::new();
        for (table, share, places) in shares {
            left.extend(look(table, at, share, places, &mut answers)?);
        }
        left.extend(rest);
        wanted = left;
    }
    for wanted in wanted {
        answers.take(wanted, at)?;
    }
    answers.finish(at)
}

/// The values found so far.
struct Answers<'a> {
    values: Vec<Option<Value>>,
    /// Keys whose values lie in blob files. They are read last, so that the disk is asked for all of them first.
    large: Vec<Wanted<'a>>,
}

impl<'a> Answers<'a> {
    /// Takes a key whose value follows from what was found.
    fn take(&mut self, mut wanted: Wanted<'a>, at: Moment) -> Result<()> {
        match wanted.resolver.ask_for_large() {
            true => self.large.push(wanted),
            false => self.values[wanted.place] = wanted.resolver.finish(at)?,
        }
        Ok(())
    }

    fn finish(mut self, at: Moment) -> Result<Vec<Option<Value>>> {
        for mut wanted in self.large {
            self.values[wanted.place] = wanted.resolver.finish(at)?;
        }
        Ok(self.values)
    }
}

/// The blocks of a table that may say something of some keys.
fn places(table: &Table, at: Moment, wanted: &[Wanted<'_>]) -> Result<Vec<Option<BlockPlace>>> {
    wanted.iter().map(|wanted| table.block_of(wanted.key, wanted.hash, at.lsn)).collect()
}

/// Looks for keys in one table, in the blocks given. Gives back those for which older versions matter, in order.
fn look<'a>(
    table: &Arc<Table>,
    at: Moment,
    wanted: Vec<Wanted<'a>>,
    places: Vec<Option<BlockPlace>>,
    answers: &mut Answers<'a>,
) -> Result<Vec<Wanted<'a>>> {
    let mut distinct: Vec<BlockPlace> = places.iter().flatten().copied().collect();
    distinct.dedup();
    let mut left = Vec::new();
    let mut wanted = wanted.into_iter().zip(places).peekable();
    for chunk in distinct.chunks(BLOCKS_MAX) {
        let blocks = table.blocks(chunk)?;
        let last = chunk[chunk.len() - 1].number();
        let is_here = |place: &Option<BlockPlace>| place.is_none_or(|place| place.number() <= last);
        while let Some((mut wanted, place)) = wanted.next_if(|(_, place)| is_here(place)) {
            let Some(place) = place else {
                left.push(wanted);
                continue;
            };
            let block = &blocks[chunk.partition_point(|other| other.number() < place.number())];
            let Wanted { key, resolver, .. } = &mut wanted;
            let take = |lsn, content: Content<'_>| resolver.take(lsn, content);
            match table.versions_from(&place, block, key, at.lsn, take)? {
                true => answers.take(wanted, at)?,
                false => left.push(wanted),
            }
        }
    }
    left.extend(wanted.map(|(wanted, _)| wanted));
    Ok(left)
}
