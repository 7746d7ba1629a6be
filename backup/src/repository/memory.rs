//! A repository in memory, for tests: the reference for what the others must do. It can also be told to ignore
//! conditions, or to check them apart from the write, as some stores do: the probe must find that out.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Condition, Etag, Fetched, LIST_PAGE_MAX, ListPage, ListedObject, ObjectInfo, Operation, PutOutcome, Repository,
    RepositoryError, RepositoryErrorKind, Request, check_range, check_size,
};

/// How a store treats conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conditions {
    /// As promised.
    #[default]
    Atomic,
    /// Checked, then written later: two at once may both win.
    CheckedApart,
    /// Not looked at.
    Ignored,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct MemoryRepository {
    objects: Mutex<BTreeMap<String, Bytes>>,
    conditions: Conditions,
}

impl MemoryRepository {
    /// An empty one that honours conditions.
    pub fn new() -> Self {
        MemoryRepository::default()
    }

    /// An empty one that treats conditions so.
    pub fn with_conditions(conditions: Conditions) -> Self {
        MemoryRepository { objects: Mutex::default(), conditions }
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }

    /// Changes an object in place, as damage would. Panics if there is none.
    pub fn damage(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.objects.lock();
        let object = objects.get_mut(key).unwrap_or_else(|| panic!("no object `{key}` to damage"));
        let mut bytes = object.to_vec();
        change(&mut bytes);
        *object = bytes.into();
    }

    /// A copy of what is stored now.
    pub fn copy(&self) -> Self {
        MemoryRepository { objects: Mutex::new(self.objects.lock().clone()), conditions: self.conditions }
    }

    fn holds(&self, key: &str, condition: &Condition) -> bool {
        match condition {
            Condition::Always => true,
            Condition::IfAbsent => !self.objects.lock().contains_key(key),
            Condition::IfMatch(etag) => self.objects.lock().get(key).is_some_and(|bytes| etag_of(bytes) == *etag),
        }
    }
}

#[async_trait]
impl Repository for MemoryRepository {
    fn location(&self) -> &str {
        "memory"
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>, size_max: u64) -> Result<Fetched, RepositoryError> {
        let request = Request { repository: self.location(), key, operation: Operation::Get };
        request.check_key()?;
        let failed = |kind| request.failed(kind);
        let object = self.objects.lock().get(key).cloned();
        let object = object.ok_or_else(|| request.failed(RepositoryErrorKind::NotFound))?;
        let Some(range) = range else {
            check_size(object.len() as u64, size_max).map_err(failed)?;
            return Ok(Fetched { etag: Some(etag_of(&object)), object_size: Some(object.len() as u64), bytes: object });
        };
        check_range(&range, object.len() as u64).map_err(failed)?;
        check_size(range.end - range.start, size_max).map_err(failed)?;
        let bytes = object.slice(range.start as usize..range.end as usize);
        Ok(Fetched { bytes, etag: None, object_size: Some(object.len() as u64) })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, RepositoryError> {
        Request { repository: self.location(), key, operation: Operation::Head }.check_key()?;
        Ok(self.objects.lock().get(key).map(|object| ObjectInfo { size: object.len() as u64 }))
    }

    async fn put(&self, key: &str, body: Bytes, condition: Condition) -> Result<PutOutcome, RepositoryError> {
        Request { repository: self.location(), key, operation: Operation::Put }.check_key()?;
        let etag = etag_of(&body);
        match self.conditions {
            Conditions::Ignored => {}
            Conditions::CheckedApart => {
                if !self.holds(key, &condition) {
                    return Ok(PutOutcome::ConditionFailed);
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            Conditions::Atomic => {
                let mut objects = self.objects.lock();
                let holds = match (&condition, objects.get(key)) {
                    (Condition::Always, _) | (Condition::IfAbsent, None) => true,
                    (Condition::IfMatch(etag), Some(bytes)) => etag_of(bytes) == *etag,
                    (Condition::IfAbsent, Some(_)) | (Condition::IfMatch(_), None) => false,
                };
                if !holds {
                    return Ok(PutOutcome::ConditionFailed);
                }
                objects.insert(key.to_owned(), body);
                return Ok(PutOutcome::Stored { etag });
            }
        }
        self.objects.lock().insert(key.to_owned(), body);
        Ok(PutOutcome::Stored { etag })
    }

    async fn delete(&self, key: &str) -> Result<(), RepositoryError> {
        Request { repository: self.location(), key, operation: Operation::Delete }.check_key()?;
        self.objects.lock().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, page: usize) -> Result<ListPage, RepositoryError> {
        Request { repository: self.location(), key: prefix, operation: Operation::List }.check_prefix()?;
        let page = page.clamp(1, LIST_PAGE_MAX);
        let from = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let objects = self.objects.lock();
        let mut keys = objects.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        let listed = |(key, bytes): (&String, &Bytes)| ListedObject { key: key.clone(), size: bytes.len() as u64 };
        let objects = keys.by_ref().take(page).map(listed).collect();
        Ok(ListPage { objects, more: keys.next().is_some() })
    }
}

fn etag_of(bytes: &[u8]) -> Etag {
    Etag(blake3::hash(bytes).to_hex().to_string())
}
