//! A replication connection's bytes: frames, and the messages in them. As they come, and with checksums made right. What
//! parses is written back as it was; nothing is larger than its kind of frame allows. The file of slots is tried as well.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use seawall_fuzz::replication::{SIZE, messages};
use seawall_replication::frame::{FRAME_HEADER_SIZE, FrameHeader};
use seawall_replication::message::Message;
use seawall_replication::slot::Slots;

fuzz_target!(
    init: seawall_fuzz::begin(seeds()),
    |input: &[u8]| {
        let (sealed, mut stream) = input.split_first().map_or((0, input), |(first, rest)| (*first, rest));
        if sealed % 4 == 3 {
            return try_slots(stream);
        }
        while let Some((header, body)) = stream.split_first_chunk::<FRAME_HEADER_SIZE>() {
            let mut header = *header;
            if sealed % 2 == 1 {
                seal(&mut header, body);
            }
            let Ok(frame) = FrameHeader::parse(&header) else { return };
            assert!(frame.body_len <= frame.kind.body_len_max());
            let Some((body, rest)) = body.split_at_checked(frame.body_len) else { return };
            if frame.check(body).is_err() {
                return;
            }
            if let Ok(message) = Message::parse(frame.kind, Bytes::copy_from_slice(body), SIZE) {
                let again = message.to_frame();
                let again = [&again.head[FRAME_HEADER_SIZE..], &again.log].concat();
                // A refusal also says in words what it is, which are the sender's.
                assert!(again == body || matches!(message, Message::Refuse(_)));
                assert_eq!(Message::parse(frame.kind, again.into(), SIZE).as_ref(), Ok(&message));
                assert!(!message.to_string().is_empty());
            }
            stream = rest;
        }
    }
);

/// Makes the checksums of a frame right.
fn seal(header: &mut [u8; FRAME_HEADER_SIZE], body: &[u8]) {
    header[5..8].fill(0);
    let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if let Some(body) = body.get(..len) {
        header[8..12].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    }
    let crc = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
}

fn try_slots(content: &[u8]) {
    let file = [content, &crc32fast::hash(content).to_le_bytes()].concat();
    if let Ok(slots) = Slots::parse(&file) {
        let again = slots.encode();
        // What an older version said is said in the newest.
        assert!(again == file || content[8] < again[8]);
        assert_eq!(Slots::parse(&again), Ok(slots));
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds: Vec<_> = messages()
        .into_iter()
        .map(|message| {
            let frame = message.to_frame();
            (message.name(), [&[1], frame.head.as_ref(), frame.log.as_ref()].concat())
        })
        .collect();
    let slots = |file: &[u8]| [&[3], &file[..file.len() - 4]].concat();
    let all: Vec<u8> = seeds.iter().flat_map(|(_, seed)| seed[1..].to_vec()).collect();
    seeds.push(("slots-1", slots(include_bytes!("../../replication/tests/fixtures/v1/slots"))));
    seeds.push(("slots-2", slots(include_bytes!("../../replication/tests/fixtures/v2/slots"))));
    seeds.push(("stream", [vec![0], all].concat()));
    seeds
}
