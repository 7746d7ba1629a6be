//! Messages to frames and back, part by part as PROTOCOL.md lists them.

use bytes::{Buf, Bytes};
use seawall_wal::{Lsn, Position, SegmentSize, TimelineId, Timestamp};

use super::{
    Bye, ByeReason, Data, Fetch, GROUP_BYTES_MAX, Hello, Identity, IoPath, Keepalive, Message, NAME_LEN_MAX, Positions,
    Refusal, StandbyName, Status, Welcome,
};
use crate::frame::{DATA_HEAD_SIZE, Frame, FrameType};
use crate::wire::{Malformed, Reader, Writer};

const MAGIC: [u8; 8] = *b"SEAWREPL";
const ADDRESS_LEN_MAX: usize = 1 << 10;
const TEXT_LEN_MAX: usize = 900;

impl Message {
    /// The frame that carries it.
    pub fn to_frame(&self) -> Frame {
        let mut body = Writer::default();
        let mut log = Bytes::new();
        let kind = match self {
            Self::Hello(hello) => encode_hello(hello, &mut body),
            Self::Welcome(welcome) => encode_welcome(welcome, &mut body),
            Self::Refuse(refusal) => encode_refusal(refusal, &mut body),
            Self::Data(data) => {
                body.u32(data.timeline.0).lsn(data.group_start).u32(data.group_len).u32(data.offset);
                body.lsn(data.flush).u64(data.time.0);
                log = data.bytes.clone();
                FrameType::Data
            }
            Self::History(history) => {
                body.history(history);
                FrameType::History
            }
            Self::Keepalive(keepalive) => {
                body.lsn(keepalive.flush).u64(keepalive.time.0).u8(keepalive.reply.into());
                FrameType::Keepalive
            }
            Self::Status(status) => encode_status(status, &mut body),
            Self::Credit(limit) => {
                body.u64(*limit);
                FrameType::Credit
            }
            Self::Bye(bye) => {
                body.u8(bye_code(bye.reason)).text(&bye.text, TEXT_LEN_MAX);
                FrameType::Bye
            }
            Self::Identify(versions) => {
                body.bytes(&MAGIC).u16(versions.0).u16(versions.1);
                FrameType::Identify
            }
            Self::Identity(identity) => encode_identity(identity, &mut body),
            Self::Fetch(fetch) => encode_fetch(fetch, &mut body),
        };
        Frame::seal(kind, &body.0, log)
    }

    /// Reads the body of a frame whose checksum held, from a peer whose segments have `size`. (A Hello brings its own.)
    pub fn parse(kind: FrameType, body: Bytes, size: SegmentSize) -> Result<Self, Malformed> {
        if kind == FrameType::Data {
            return parse_data(body).map(Self::Data);
        }
        let mut reader = Reader::new(&body);
        let message = match kind {
            FrameType::Hello => Self::Hello(parse_hello(&mut reader)?),
            FrameType::Welcome => Self::Welcome(parse_welcome(&mut reader, size)?),
            FrameType::Refuse => Self::Refuse(parse_refusal(&mut reader, size)?),
            FrameType::History => Self::History(reader.history(size)?),
            FrameType::Keepalive => Self::Keepalive(Keepalive {
                flush: reader.lsn("flush LSN")?,
                time: Timestamp(reader.u64("time")?),
                reply: reader.bool("reply flag")?,
            }),
            FrameType::Status => Self::Status(parse_status(&mut reader)?),
            FrameType::Credit => Self::Credit(reader.u64("credit")?),
            FrameType::Bye => Self::Bye(Bye {
                reason: bye_reason(reader.u8("reason")?)?,
                text: reader.text(TEXT_LEN_MAX, "text")?.to_owned(),
            }),
            FrameType::Identify => {
                parse_magic(&mut reader)?;
                Self::Identify((reader.u16("versions")?, reader.u16("versions")?))
            }
            FrameType::Identity => Self::Identity(parse_identity(&mut reader)?),
            FrameType::Fetch => Self::Fetch(parse_fetch(&mut reader)?),
            FrameType::Data => unreachable!("parsed above"),
        };
        reader.end()?;
        Ok(message)
    }
}

fn encode_hello(hello: &Hello, body: &mut Writer) -> FrameType {
    body.bytes(&MAGIC).u16(hello.versions.0).u16(hello.versions.1).u32(hello.log_format);
    body.u32(hello.segment_size.bytes()).bytes(&hello.cluster.to_bytes()).bytes(&hello.node.to_bytes());
    body.position(hello.position).u64(hello.credit).text(hello.name.as_str(), NAME_LEN_MAX).history(&hello.history);
    FrameType::Hello
}

fn parse_hello(reader: &mut Reader<'_>) -> Result<Hello, Malformed> {
    parse_magic(reader)?;
    let versions = (reader.u16("versions")?, reader.u16("versions")?);
    let log_format = reader.u32("log format")?;
    let segment_size = parse_size(reader)?;
    let hello = Hello {
        versions,
        log_format,
        segment_size,
        cluster: reader.cluster()?,
        node: reader.node()?,
        position: reader.position("position")?,
        credit: reader.u64("credit")?,
        name: StandbyName::new(reader.text(NAME_LEN_MAX, "name")?).map_err(|_| Malformed::Value("name"))?,
        history: reader.history(segment_size)?,
    };
    if hello.credit < GROUP_BYTES_MAX as u64 {
        return Err(Malformed::Value("credit"));
    }
    if !hello.position.lsn.is_reachable() {
        return Err(Malformed::Value("position"));
    }
    Ok(hello)
}

fn parse_magic(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    if reader.array("magic")? == MAGIC { Ok(()) } else { Err(Malformed::Value("magic")) }
}

fn parse_size(reader: &mut Reader<'_>) -> Result<SegmentSize, Malformed> {
    SegmentSize::new(reader.u32("segment size")?).ok_or(Malformed::Value("segment size"))
}

fn encode_identity(identity: &Identity, body: &mut Writer) -> FrameType {
    body.u16(identity.versions.0).u16(identity.versions.1).u32(identity.log_format);
    body.u32(identity.segment_size.bytes()).bytes(&identity.cluster.to_bytes()).bytes(&identity.node.to_bytes());
    body.lsn(identity.oldest).lsn(identity.flush).history(&identity.history);
    FrameType::Identity
}

fn parse_identity(reader: &mut Reader<'_>) -> Result<Identity, Malformed> {
    let versions = (reader.u16("versions")?, reader.u16("versions")?);
    let log_format = reader.u32("log format")?;
    let segment_size = parse_size(reader)?;
    Ok(Identity {
        versions,
        log_format,
        segment_size,
        cluster: reader.cluster()?,
        node: reader.node()?,
        oldest: reader.lsn("oldest LSN")?,
        flush: reader.lsn("flush LSN")?,
        history: reader.history(segment_size)?,
    })
}

fn encode_fetch(fetch: &Fetch, body: &mut Writer) -> FrameType {
    body.bytes(&MAGIC).u16(fetch.versions.0).u16(fetch.versions.1).u32(fetch.log_format);
    body.u32(fetch.segment_size.bytes()).bytes(&fetch.cluster.to_bytes()).u32(fetch.timeline.0).lsn(fetch.from);
    FrameType::Fetch
}

fn parse_fetch(reader: &mut Reader<'_>) -> Result<Fetch, Malformed> {
    parse_magic(reader)?;
    let fetch = Fetch {
        versions: (reader.u16("versions")?, reader.u16("versions")?),
        log_format: reader.u32("log format")?,
        segment_size: parse_size(reader)?,
        cluster: reader.cluster()?,
        timeline: TimelineId(reader.u32("timeline")?),
        from: reader.lsn("from LSN")?,
    };
    if fetch.from.is_reachable() { Ok(fetch) } else { Err(Malformed::Value("from LSN")) }
}

fn encode_welcome(welcome: &Welcome, body: &mut Writer) -> FrameType {
    body.u16(welcome.version).bytes(&welcome.node.to_bytes()).lsn(welcome.flush).lsn(welcome.oldest);
    body.lsn(welcome.start).u32(welcome.timeout_ms).text(&welcome.primary, ADDRESS_LEN_MAX).history(&welcome.history);
    FrameType::Welcome
}

fn parse_welcome(reader: &mut Reader<'_>, size: SegmentSize) -> Result<Welcome, Malformed> {
    Ok(Welcome {
        version: reader.u16("version")?,
        node: reader.node()?,
        flush: reader.lsn("flush LSN")?,
        oldest: reader.lsn("oldest LSN")?,
        start: reader.lsn("start LSN")?,
        timeout_ms: reader.u32("timeout")?,
        primary: reader.text(ADDRESS_LEN_MAX, "address")?.to_owned(),
        history: reader.history(size)?,
    })
}

fn encode_refusal(refusal: &Refusal, body: &mut Writer) -> FrameType {
    let (code, position, number) = match refusal {
        Refusal::Version { lowest, highest } => (1, Position::ZERO, u64::from(*lowest) | u64::from(*highest) << 16),
        Refusal::WrongCluster => (2, Position::ZERO, 0),
        Refusal::Format { segment_size } => (3, Position::ZERO, (*segment_size).into()),
        Refusal::Removed { oldest } => (4, Position::ZERO, oldest.offset()),
        Refusal::Diverged { common, .. } => (5, *common, 0),
        Refusal::Ahead { flush } => (6, Position::ZERO, flush.offset()),
        Refusal::OlderTimeline { current } => (7, Position::ZERO, current.0.into()),
        Refusal::NameTaken => (8, Position::ZERO, 0),
        Refusal::NoRoom => (9, Position::ZERO, 0),
        Refusal::NotServing => (10, Position::ZERO, 0),
    };
    body.u8(code).position(position).u64(number).text(&refusal.to_string(), TEXT_LEN_MAX);
    match refusal {
        Refusal::Diverged { history, .. } => body.u8(1).history(history),
        _ => body.u8(0),
    };
    FrameType::Refuse
}

fn parse_refusal(reader: &mut Reader<'_>, size: SegmentSize) -> Result<Refusal, Malformed> {
    let (code, position, number) = (reader.u8("code")?, reader.position("position")?, reader.u64("number")?);
    // The text is for people who watch the wire; here the code speaks.
    reader.text(TEXT_LEN_MAX, "text")?;
    let history = if reader.bool("history flag")? { Some(reader.history(size)?) } else { None };
    let small = |what| u32::try_from(number).map_err(|_| Malformed::Value(what));
    Ok(match (code, history) {
        (1, None) => {
            let versions = small("versions")?;
            Refusal::Version { lowest: (versions & 0xFFFF) as u16, highest: (versions >> 16) as u16 }
        }
        (2, None) => Refusal::WrongCluster,
        (3, None) => Refusal::Format { segment_size: small("segment size")? },
        (4, None) => Refusal::Removed { oldest: Lsn::new(number) },
        (5, Some(history)) => Refusal::Diverged { common: position, history: Box::new(history) },
        (6, None) => Refusal::Ahead { flush: Lsn::new(number) },
        (7, None) => Refusal::OlderTimeline { current: TimelineId(small("timeline")?) },
        (8, None) => Refusal::NameTaken,
        (9, None) => Refusal::NoRoom,
        (10, None) => Refusal::NotServing,
        _ => return Err(Malformed::Value("code")),
    })
}

fn parse_data(mut body: Bytes) -> Result<Data, Malformed> {
    if body.len() < DATA_HEAD_SIZE {
        return Err(Malformed::Short("data head"));
    }
    let head = body.copy_to_bytes(DATA_HEAD_SIZE);
    let mut reader = Reader::new(&head);
    let data = Data {
        timeline: TimelineId(reader.u32("timeline")?),
        group_start: reader.lsn("group start")?,
        group_len: reader.u32("group length")?,
        offset: reader.u32("offset")?,
        flush: reader.lsn("flush LSN")?,
        time: Timestamp(reader.u64("time")?),
        bytes: body,
    };
    let end = u64::from(data.offset) + data.bytes.len() as u64;
    if data.bytes.is_empty() || data.group_len as usize > GROUP_BYTES_MAX || end > data.group_len.into() {
        return Err(Malformed::Value("group length"));
    }
    if !data.group_start.is_reachable() {
        return Err(Malformed::Value("group start"));
    }
    Ok(data)
}

fn encode_status(status: &Status, body: &mut Writer) -> FrameType {
    let Positions { write, flush, replay } = status.positions;
    body.lsn(write).lsn(flush).lsn(replay).u64(status.disk_free.unwrap_or(u64::MAX)).u64(status.apply_rate);
    body.u64(status.echo.0).u8(status.corruption.into()).u8(match status.io_path {
        IoPath::Unknown => 0,
        IoPath::IoUring => 1,
        IoPath::Posix => 2,
    });
    FrameType::Status
}

fn parse_status(reader: &mut Reader<'_>) -> Result<Status, Malformed> {
    let positions = Positions {
        write: reader.lsn("write LSN")?,
        flush: reader.lsn("flush LSN")?,
        replay: reader.lsn("replay LSN")?,
    };
    if !positions.in_order() {
        return Err(Malformed::Value("positions"));
    }
    Ok(Status {
        positions,
        disk_free: Some(reader.u64("free disk")?).filter(|free| *free != u64::MAX),
        apply_rate: reader.u64("apply rate")?,
        echo: Timestamp(reader.u64("echoed time")?),
        corruption: reader.bool("flags")?,
        io_path: match reader.u8("io path")? {
            0 => IoPath::Unknown,
            1 => IoPath::IoUring,
            2 => IoPath::Posix,
            _ => return Err(Malformed::Value("io path")),
        },
    })
}

const BYE_REASONS: [(u8, ByeReason); 6] = [
    (1, ByeReason::Drained),
    (2, ByeReason::ShuttingDown),
    (3, ByeReason::NotWanted),
    (4, ByeReason::Protocol),
    (5, ByeReason::Timeout),
    (6, ByeReason::Storage),
];

fn bye_code(reason: ByeReason) -> u8 {
    BYE_REASONS.iter().find(|(_, known)| *known == reason).expect("every reason has a code").0
}

fn bye_reason(code: u8) -> Result<ByeReason, Malformed> {
    BYE_REASONS.iter().find(|(known, _)| *known == code).map(|(_, reason)| *reason).ok_or(Malformed::Value("reason"))
}
