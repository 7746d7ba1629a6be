//! Records on their way from the thread that reads and checks them to the one that puts them to use, so that the two go
//! on side by side. They are copied, in batches that go round: what is on its way is bounded, and allocated once.

use crate::format::{Record, RecordHeader};
use crate::lsn::SegmentSize;
use crate::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A batch goes on its way when it has so many bytes of payload, or so many records. It stays in a core's own cache.
const BATCH_BYTES: usize = 128 << 10;
const BATCH_RECORDS: usize = 4096;
/// Batches that are full and not yet taken.
const BATCHES_WAITING: usize = 4;

/// Consecutive records, whole and checked.
#[derive(Default)]
struct Batch {
    headers: Vec<RecordHeader>,
    /// One behind the other.
    payloads: Vec<u8>,
}

impl Batch {
    fn push(&mut self, record: &Record<'_>) {
        self.headers.push(record.header);
        self.payloads.extend_from_slice(record.payload);
    }

    fn is_full(&self) -> bool {
        self.payloads.len() >= BATCH_BYTES || self.headers.len() >= BATCH_RECORDS
    }

    fn records(&self, size: SegmentSize) -> Vec<Record<'_>> {
        let mut rest = &self.payloads[..];
        let record = |header: &RecordHeader| {
            let (payload, behind) = rest.split_at(header.payload_len);
            rest = behind;
            Record { header: *header, payload, lsn: header.end(size) }
        };
        self.headers.iter().map(record).collect()
    }

    fn clear(&mut self) {
        self.headers.clear();
        self.payloads.clear();
    }
}

/// Nobody takes records any more.
#[derive(Debug)]
pub(crate) struct Gone;

/// The end at which records come in.
pub(crate) struct Giver {
    batch: Batch,
    full: SyncSender<Batch>,
    used: Receiver<Batch>,
}

/// The end at which they are taken, in the same order.
pub(crate) struct Taker {
    size: SegmentSize,
    full: Receiver<Batch>,
    used: SyncSender<Batch>,
}

/// The two ends, for records of segments of this size.
pub(crate) fn handover(size: SegmentSize) -> (Giver, Taker) {
    let (full, taken) = sync_channel(BATCHES_WAITING);
    let (back, used) = sync_channel(BATCHES_WAITING + 2);
    (Giver { batch: Batch::default(), full, used }, Taker { size, full: taken, used: back })
}

impl Giver {
    /// Waits while many are on their way.
    pub(crate) fn give(&mut self, record: &Record<'_>) -> Result<(), Gone> {
        self.batch.push(record);
        if self.batch.is_full() { self.send() } else { Ok(()) }
    }

    /// Sends what is left. Without it the other end does not get the last records.
    pub(crate) fn finish(mut self) -> Result<(), Gone> {
        self.send()
    }

    fn send(&mut self) -> Result<(), Gone> {
        let next = self.used.try_recv().unwrap_or_default();
        self.full.send(std::mem::replace(&mut self.batch, next)).map_err(|_| Gone)
    }
}

impl Taker {
    /// Takes everything until the other end is gone, or `on_records` fails; the other end hears of that when it gives.
    pub(crate) fn take_all<E>(self, on_records: &mut impl FnMut(&[Record<'_>]) -> Result<(), E>) -> Result<(), E> {
        for mut batch in &self.full {
            on_records(&batch.records(self.size))?;
            batch.clear();
            // There is room for all there are.
            let _ = self.used.try_send(batch);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::format::{Chain, RecordKind};
    use crate::lsn::Lsn;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    /// With the one that is being filled, the one that waits to be sent, and the one that is taken.
    const BATCHES_MAX: usize = BATCHES_WAITING + 3;

    fn give_all(giver: &mut Giver, records: usize, given: &AtomicUsize) -> Result<(), Gone> {
        for number in 0..records {
            let payload = (number as u64).to_le_bytes();
            let start = Lsn::new(512 + 56 * number as u64);
            let (stamp, time) = (Lsn::ZERO, Timestamp(number as u64));
            let header = RecordHeader::chained(Chain(0), start, RecordKind::Commit, payload.len(), 0, stamp, time);
            giver.give(&Record { header, payload: &payload, lsn: header.end(SIZE) })?;
            given.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    #[test]
    fn records_arrive_whole_and_in_order_and_what_is_on_its_way_is_bounded() {
        const RECORDS: usize = 100_000;
        let (mut giver, taker) = handover(SIZE);
        let given = AtomicUsize::new(0);
        let mut taken = 0;
        let mut batches = HashSet::new();
        thread::scope(|scope| {
            scope.spawn(|| give_all(&mut giver, RECORDS, &given).and_then(|()| giver.finish()).unwrap());
            let mut on_records = |records: &[Record<'_>]| {
                if taken == 0 {
                    thread::sleep(Duration::from_millis(50));
                }
                batches.insert(records[0].payload.as_ptr());
                for record in records {
                    assert_eq!(record.payload, (taken as u64).to_le_bytes());
                    assert_eq!(record.header.time, Timestamp(taken as u64));
                    assert_eq!(record.lsn, Lsn::new(512 + 56 * (taken as u64 + 1)));
                    taken += 1;
                }
                let on_their_way = given.load(Ordering::Relaxed) - (taken - records.len());
                assert!(on_their_way <= BATCHES_MAX * BATCH_RECORDS, "{on_their_way}");
                Ok::<_, ()>(())
            };
            taker.take_all(&mut on_records).unwrap();
        });
        assert_eq!(taken, RECORDS);
        assert!(batches.len() <= BATCHES_MAX, "{} batches were allocated", batches.len());
    }

    #[test]
    fn who_gives_hears_that_nobody_takes_any_more() {
        let (mut giver, taker) = handover(SIZE);
        let given = AtomicUsize::new(0);
        thread::scope(|scope| {
            let giving = scope.spawn(|| give_all(&mut giver, 100_000, &given));
            assert_eq!(taker.take_all(&mut |_| Err("no more")), Err("no more"));
            assert!(giving.join().unwrap().is_err());
        });
        assert!(given.into_inner() <= BATCHES_MAX * BATCH_RECORDS);
    }
}
