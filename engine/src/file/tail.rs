//! The last bytes of tables and blob files, which are the same in every version, so that a newer file is told from a damaged
//! one: version, length of the footer, its checksum, zero, magic.

use crate::codec::{Put, len_u32};

/// Their length.
pub(crate) const TAIL_LEN: usize = 24;

/// Ends a footer whose fields are in `footer`.
pub(crate) fn put(footer: &mut Vec<u8>, version: u32, magic: &[u8; 8]) {
    footer.put_u32(version);
    footer.put_u32(len_u32(footer.len() - 4 + TAIL_LEN));
    let crc = crc32fast::hash(footer);
    footer.put_u32(crc);
    footer.put_u32(0);
    footer.put(magic);
}

/// Version and length of the footer that a file ends with, if its checksum matches.
pub(crate) fn check(file: &[u8], magic: &[u8; 8]) -> Option<(u32, usize)> {
    let tail = file.last_chunk::<TAIL_LEN>()?;
    let field = |at: usize| u32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
    let (version, len, crc, zero) = (field(0), field(4) as usize, field(8), field(12));
    if tail[16..] != *magic || zero != 0 || !(TAIL_LEN..=file.len()).contains(&len) {
        return None;
    }
    let checked = &file[file.len() - len..file.len() - TAIL_LEN + 8];
    (crc32fast::hash(checked) == crc).then_some((version, len))
}
