//! Records and segment headers of the log, one at a time: as they come, and with fields from the input and checksums that
//! are right. What parses lies within the input and is written back as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seawall_fuzz::Script;
use seawall_wal::format::{
    Chain, RECORD_HEADER_SIZE, Record, RecordHeader, SEGMENT_HEADER_SIZE, UnverifiedSegmentHeader, payload_crc,
    payload_len_max,
};
use seawall_wal::{Lsn, SegmentSize};

fuzz_target!(
    init: seawall_fuzz::begin([("record", seed(false)), ("sealed", seed(true))]),
    |input: &[u8]| {
        let mut script = Script::new(input);
        let sealed = script.bool();
        let size = SegmentSize::new(1 << (16 + script.u8() % 15)).expect("64 KiB to 1 GiB");
        let (salt, start) = (script.u64(), Lsn::new(script.u64()));
        let mut bytes = script.rest().to_vec();
        if sealed {
            seal(&mut bytes, start, salt);
        }
        try_record(&bytes, start, salt, size);
        try_segment_header(&mut bytes, sealed);
    }
);

fn try_record(bytes: &[u8], start: Lsn, salt: u64, size: SegmentSize) {
    let Ok(record) = Record::parse(bytes, start, salt, size) else { return };
    assert_eq!(record.header.encode(salt), bytes[..RECORD_HEADER_SIZE]);
    assert_eq!(record.payload, &bytes[RECORD_HEADER_SIZE..][..record.header.payload_len]);
    assert!(record.payload.len() <= payload_len_max(size));
    assert!(record.lsn > start && record.lsn <= size.end_of(size.segment_of(start)));
    let header = record.header;
    let (crc, kind) = (header.payload_crc, header.kind);
    let again =
        RecordHeader::chained(Chain(7), start, kind, record.payload.len(), crc, header.flush_stamp, header.time);
    assert!(again.continues(Chain(7)) && !again.continues(Chain(8)));
}

fn try_segment_header(bytes: &mut [u8], sealed: bool) {
    let Some(sector) = bytes.first_chunk_mut::<SEGMENT_HEADER_SIZE>() else { return };
    if sealed {
        sector[..8].copy_from_slice(b"SEAWALL\x01");
        let crc = crc32fast::hash(&sector[16..]);
        sector[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    if let UnverifiedSegmentHeader::Parsed(header) = UnverifiedSegmentHeader::parse(sector) {
        // What is behind the fields may have other bytes in a later minor version.
        assert_eq!(header.encode()[16..112], sector[16..112]);
    }
}

/// Makes the checksums and the place of the record right that the bytes begin with.
fn seal(bytes: &mut [u8], start: Lsn, salt: u64) {
    let Some((header, payload)) = bytes.split_first_chunk_mut::<RECORD_HEADER_SIZE>() else { return };
    header[8..16].copy_from_slice(&start.offset().to_le_bytes());
    let len = u32::from_le_bytes(header[4..8].try_into().expect("four bytes")) as usize;
    if let Some(payload) = payload.get(..len) {
        header[40..44].copy_from_slice(&payload_crc(payload).to_le_bytes());
    }
    let crc = crc32fast::hash(&[&salt.to_le_bytes(), &header[4..]].concat());
    header[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The script of a record that is whole, or becomes so.
fn seed(sealed: bool) -> Vec<u8> {
    let (start, salt, payload) = (Lsn::new(512), 7_u64, b"payload".as_slice());
    let kind = seawall_wal::RecordKind::Commit;
    let (crc, time) = (payload_crc(payload), seawall_wal::Timestamp(9));
    let header = RecordHeader::chained(Chain(3), start, kind, payload.len(), crc, Lsn::new(512), time);
    let record = [header.encode(salt).as_slice(), payload].concat();
    let head = [[u8::from(sealed), 0].as_slice(), &salt.to_le_bytes(), &start.offset().to_le_bytes()].concat();
    [head, record].concat()
}
