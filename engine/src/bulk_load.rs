//! Loading sorted data: many entries to a record, nobody waiting for any but the last. They go through the log like
//! everything else, because the log is what standbys, the archive and restores have; tables that nothing overlaps are
//! then moved down rather than merged (`compaction`).

use bytes::Bytes;

use crate::commit::CommitTicket;
use crate::db::Db;
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::level::CommitLevel;

/// Bytes of keys and values in one record. More would keep other committers waiting behind it.
const RECORD_BYTES: usize = 512 << 10;

/// What a bulk load did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkLoad {
    /// Entries loaded.
    pub entries: u64,
    /// The last commit; nothing of the load is behind it.
    pub lsn: seawall_wal::Lsn,
}

impl Db {
    /// Puts `entries`, which must come in ascending order of their keys, none twice, into `keyspace`. Keys that are there
    /// already are overwritten, as by any put. When it returns, all of them survive power loss.
    ///
    /// It is not one transaction: others see entries as they come, in order, and after an error, or a crash, those before
    /// it stay. Loading the same entries again is harmless.
    ///
    /// ```no_run
    /// # let db = seawall_engine::Db::open("data")?;
    /// let numbers = db.keyspace("numbers")?;
    /// let squares = (0..1_000_000_u64).map(|number| (number.to_be_bytes(), (number * number).to_string()));
    /// let loaded = db.bulk_load(&numbers, squares)?;
    /// println!("{} entries, up to {}", loaded.entries, loaded.lsn);
    /// # Ok::<(), seawall_engine::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsorted`] names the first key out of order; [`Error::TooLarge`] what a put would refuse.
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<BulkLoad> {
        let record_bytes =
            RECORD_BYTES.min(seawall_wal::format::payload_len_max(self.log().options().segment_size) / 2);
        let mut batch = self.batch();
        let mut last: Option<Vec<u8>> = None;
        let (mut count, mut lsn) = (0_u64, self.applied().0.lsn);
        let commit = |batch: crate::Batch| -> Result<CommitTicket> { batch.commit_ticket_with(CommitLevel::Buffered) };
        for (key, value) in entries {
            let (key, value) = (key.as_ref(), value.as_ref());
            match &mut last {
                Some(last) if last.as_slice() >= key => {
                    return Err(Error::Unsorted { key: Bytes::copy_from_slice(key), entries: count });
                }
                Some(last) => {
                    last.clear();
                    last.extend_from_slice(key);
                }
                none => *none = Some(key.to_vec()),
            }
            if !batch.is_empty() && batch.size() + key.len() + value.len() > record_bytes {
                lsn = commit(std::mem::replace(&mut batch, self.batch()))?.lsn();
            }
            batch.put(keyspace, key, value);
            count += 1;
            if batch.is_wrong() {
                break;
            }
        }
        if count > 0 {
            lsn = commit(batch)?.lsn();
        }
        self.sync()?;
        Ok(BulkLoad { entries: count, lsn })
    }
}
