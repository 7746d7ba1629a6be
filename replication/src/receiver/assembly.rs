//! Puts the pieces of a group together. At most one group is open, and its size was checked before its first byte was kept.

use seawall_wal::LogBytes;

use crate::error::ProtocolError;
use crate::message::{Data, GROUP_BYTES_MAX};

/// The group that is being received, if any.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    log: LogBytes,
    len: usize,
}

impl Assembly {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_none()
    }

    /// Adds a piece; gives the group when it is whole.
    pub(crate) fn add(&mut self, data: Data) -> Result<Option<LogBytes>, ProtocolError> {
        let len = data.group_len as usize;
        assert!(len <= GROUP_BYTES_MAX, "parsing checked the size");
        let torn = ProtocolError::TornGroup { group: data.group_start };
        match &mut self.open {
            None if data.offset == 0 => {
                let mut bytes = Vec::from(data.bytes);
                // Room grows as pieces come: who announces much and sends little costs little.
                bytes.reserve_exact((len - bytes.len()).min(1 << 20));
                self.open =
                    Some(Open { log: LogBytes { timeline: data.timeline, start: data.group_start, bytes }, len });
            }
            Some(open)
                if open.log.start == data.group_start
                    && open.log.timeline == data.timeline
                    && open.len == len
                    && open.log.bytes.len() == data.offset as usize =>
            {
                open.log.bytes.extend_from_slice(&data.bytes);
            }
            _ => return Err(torn),
        }
        let whole = self.open.as_ref().is_some_and(|open| open.log.bytes.len() == open.len);
        Ok(self.open.take_if(|_| whole).map(|open| open.log))
    }
}
