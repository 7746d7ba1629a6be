//! Reading many keys at one LSN: memtables first; what is not there sorted, so that each block is visited once, and then the
//! tables level by level.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Result;
use crate::format::KeyspaceId;
use crate::marks::Moment;
use crate::mutant::{Mutant, planted};
use crate::resolve::{Resolver, Value};
use crate::table::{Block, BlockPlace, Content, Table, filter_hash};
use crate::version::{Levels, View};

/// Blocks of a table that the disk is asked for at a time: as many as it gains from.
const BLOCKS_ASKED: usize = 32;
/// Blocks that are waited for together, and held until their keys are answered, while the others are on their way.
const BLOCKS_TOGETHER: usize = 8;
const _: () = assert!(BLOCKS_ASKED.is_multiple_of(BLOCKS_TOGETHER));

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
        wanted = Share::of(table, at, wanted)?.look(at, &mut answers)?;
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
                shares.push(Share::of(table, at, share)?);
            }
        }
        // One table is read after the other; what the later ones need is on its way meanwhile.
        let mut left = Vec::new();
        for share in shares {
            left.extend(share.look(at, &mut answers)?);
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

/// Keys, in order, of which a table may say something.
struct Share<'a, 'b> {
    table: &'b Arc<Table>,
    wanted: Vec<Wanted<'a>>,
    /// The block of each.
    places: Vec<Option<BlockPlace>>,
    /// No two the same.
    blocks: Vec<BlockPlace>,
    /// Of the first ones, those that are in memory; the disk was asked for the others.
    found: VecDeque<Option<Block>>,
}

impl<'a, 'b> Share<'a, 'b> {
    /// Asks the disk for the first blocks.
    fn of(table: &'b Arc<Table>, at: Moment, wanted: Vec<Wanted<'a>>) -> Result<Self> {
        let place = |wanted: &Wanted<'_>| table.block_of(wanted.key, wanted.hash, at.lsn);
        let places = wanted.iter().map(place).collect::<Result<Vec<_>>>()?;
        let mut blocks: Vec<BlockPlace> = places.iter().flatten().copied().collect();
        blocks.dedup();
        let found = table.find_blocks(&blocks[..blocks.len().min(BLOCKS_ASKED)])?.into();
        Ok(Self { table, wanted, places, blocks, found })
    }

    /// Gives back the keys for which older versions matter, in order.
    fn look(self, at: Moment, answers: &mut Answers<'a>) -> Result<Vec<Wanted<'a>>> {
        let Self { table, wanted, places, blocks, mut found } = self;
        let mut left = Vec::new();
        let mut wanted = wanted.into_iter().zip(places).peekable();
        let mut ahead = blocks.chunks(BLOCKS_TOGETHER).skip(BLOCKS_ASKED / BLOCKS_TOGETHER);
        for together in blocks.chunks(BLOCKS_TOGETHER) {
            let read = table.blocks(together, found.drain(..together.len()).collect())?;
            if let Some(ahead) = ahead.next() {
                found.extend(table.find_blocks(ahead)?);
            }
            let last = together[together.len() - 1].number();
            let is_here = |place: &Option<BlockPlace>| place.is_none_or(|place| place.number() <= last);
            while let Some((mut wanted, place)) = wanted.next_if(|(_, place)| is_here(place)) {
                let Some(place) = place else {
                    left.push(wanted);
                    continue;
                };
                let block = &read[together.partition_point(|other| other.number() < place.number())];
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
}
