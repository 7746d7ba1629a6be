//! What a standby is sent as log. The bytes a primary's log consists of are edited, cut and put elsewhere; a log that takes
//! them has afterwards what the primary wrote and nothing else.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use seawall_fuzz::log::{Written, open, sample};
use seawall_fuzz::{Edit, Script};
use seawall_wal::storage::MemoryDisk;
use seawall_wal::{Error, LogBytes, LogMode, Lsn, TimelineId};

/// Changes of one piece: fewer than it takes to forge a record.
const EDITS_MAX: usize = 3;

static SAMPLE: LazyLock<(Vec<LogBytes>, Vec<Written>)> = LazyLock::new(|| {
    let (disk, written) = sample();
    let opened = open(Arc::new(disk), LogMode::Append, Lsn::ZERO);
    let (log, ..) = opened.map_err(|(error, _)| error).expect("a healthy log opens");
    let mut pieces: Vec<LogBytes> = Vec::new();
    let next = |pieces: &[LogBytes]| pieces.last().map_or(Lsn::ZERO, LogBytes::end);
    while let Some(piece) = log.read(next(&pieces), 20_000).expect("memory") {
        pieces.push(piece);
    }
    (pieces, written)
});

fuzz_target!(
    init: seawall_fuzz::begin([
        ("healthy", [0_u8; 40].as_slice()),
        ("edited", &[0, 1, 0, 0, 2, 0, 0, 0xFF, 0xFF, 0, 0]),
        ("elsewhere", &[4, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
    ]),
    |input: &[u8]| {
        let mut script = Script::new(input);
        let (pieces, written) = &*SAMPLE;
        let opened = open(Arc::new(MemoryDisk::new()), LogMode::Receive, Lsn::ZERO);
        let (log, ..) = opened.map_err(|(error, _)| error).expect("an empty log opens");
        let mut taken = 0;
        // Each piece comes changed first, perhaps, and then as it is.
        for piece in pieces {
            if script.is_over() {
                break;
            }
            let sent = changed(piece, pieces, &mut script);
            taken += receive(&log, &sent, &written[taken..]);
            if log.end().lsn < piece.end() && log.end().lsn == piece.start {
                let before = taken;
                taken += receive(&log, piece, &written[taken..]);
                assert!(taken > before, "the piece at {} is refused after a bad one", piece.start);
            }
            assert_eq!(log.end().lsn, taken.checked_sub(1).map_or(Lsn::ZERO, |last| written[last].lsn));
        }
        log.flush_received().expect("memory");
    }
);

fn changed(piece: &LogBytes, pieces: &[LogBytes], script: &mut Script<'_>) -> LogBytes {
    let how = script.u8();
    let mut sent = piece.clone();
    if how & 4 != 0 {
        sent = pieces[script.below(pieces.len())].clone();
    }
    if how & 8 != 0 {
        sent.start = Lsn::new(script.u64());
    }
    if how & 16 != 0 {
        sent.timeline = TimelineId(script.u32());
    }
    for _ in 0..usize::from(how % 4).min(EDITS_MAX) {
        if !sent.bytes.is_empty() {
            Edit::next(script, sent.bytes.len()).apply(&mut sent.bytes);
        }
    }
    sent
}

/// How many records of what was written the log took, which must be those.
fn receive(log: &seawall_wal::Log, sent: &LogBytes, expected: &[Written]) -> usize {
    let mut taken = 0;
    let received = log.receive::<Error>(sent, |record| {
        let next = expected.get(taken).expect("no more than was written");
        assert_eq!((record.header.start, record.payload), (next.start, next.payload.as_slice()));
        taken += 1;
        Ok(())
    });
    assert!(received.is_ok() || taken == 0, "a piece that is refused was taken in part");
    taken
}
