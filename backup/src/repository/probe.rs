//! Finds out whether a store honours conditional writes, one after the other and eight at a time. Fencing stands on
//! them: where they do not hold it must be refused, loudly, rather than believed in.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Condition, PutOutcome, Repository, RepositoryError};

/// Writers of one race.
pub const RACERS: usize = 8;

/// Races run; a store that checks apart from writing loses most of them.
const RACES: usize = 3;

/// Large enough that the racers' uploads overlap.
const RACE_BODY: usize = 64 * 1024;

/// What the probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionalWrites {
    /// At most one writer wins: fencing through this store holds.
    Honoured,
    /// Alone a condition is honoured, but of [`RACERS`] writers at once several won.
    NotUnderConcurrency {
        /// How many were told they had won.
        winners: usize,
    },
    /// A condition that did not hold was not refused.
    Ignored,
}

impl ConditionalWrites {
    /// Whether a fence written to this store stops another writer.
    pub fn can_fence(self) -> bool {
        self == ConditionalWrites::Honoured
    }
}

impl std::fmt::Display for ConditionalWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ConditionalWrites::Honoured => f.write_str("conditional writes are honoured"),
            ConditionalWrites::NotUnderConcurrency { winners } => write!(
                f,
                "conditional writes do not hold under concurrency: {winners} of {RACERS} writers of one key were told they had won"
            ),
            ConditionalWrites::Ignored => f.write_str("conditional writes are ignored: an object was replaced"),
        }
    }
}

/// Probes a store under keys of its own, `probe/…`, and removes them. Some thirty small requests.
pub async fn probe(repository: &Arc<dyn Repository>) -> Result<ConditionalWrites, RepositoryError> {
    let run = format!("probe/{:016x}", rand::random::<u64>());
    let found = examine(repository, &run).await;
    for race in 0..=RACES {
        // A leftover is a few bytes under a name never used again; failing the probe over it would help nobody.
        if let Err(error) = repository.delete(&format!("{run}-{race}")).await {
            tracing::debug!(%error, "probe object left behind");
        }
    }
    found
}

async fn examine(repository: &Arc<dyn Repository>, run: &str) -> Result<ConditionalWrites, RepositoryError> {
    if !one_after_the_other(repository, &format!("{run}-0")).await? {
        return Ok(ConditionalWrites::Ignored);
    }
    for race in 1..=RACES {
        let winners = at_once(repository, &format!("{run}-{race}")).await?;
        if winners > 1 {
            return Ok(ConditionalWrites::NotUnderConcurrency { winners });
        }
    }
    Ok(ConditionalWrites::Honoured)
}

async fn one_after_the_other(repository: &Arc<dyn Repository>, key: &str) -> Result<bool, RepositoryError> {
    let first = Bytes::from_static(b"first");
    // A lost answer makes our own write look like another's; the contents are what counts.
    let _ = repository.put(key, first.clone(), Condition::IfAbsent).await?;
    let second = repository.put(key, Bytes::from_static(b"second"), Condition::IfAbsent).await?;
    let stored = repository.get(key, None, 64).await?.bytes;
    Ok(!matches!(second, PutOutcome::Stored { .. }) && stored == first)
}

/// How many writers of one key were told they had stored it.
async fn at_once(repository: &Arc<dyn Repository>, key: &str) -> Result<usize, RepositoryError> {
    let mut racers = JoinSet::new();
    for racer in 0..RACERS {
        let (repository, key) = (repository.clone(), key.to_owned());
        let body = Bytes::from(vec![racer as u8; RACE_BODY]);
        racers.spawn(async move { repository.put(&key, body, Condition::IfAbsent).await });
    }
    let mut winners = 0;
    while let Some(outcome) = racers.join_next().await {
        match outcome {
            Ok(Ok(PutOutcome::Stored { .. })) => winners += 1,
            Ok(Ok(PutOutcome::ConditionFailed | PutOutcome::Conflict)) => {}
            Ok(Err(error)) => return Err(error),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
    Ok(winners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::memory::{Conditions, MemoryRepository};

    async fn found(conditions: Conditions) -> (ConditionalWrites, Vec<String>) {
        let memory = Arc::new(MemoryRepository::with_conditions(conditions));
        let repository: Arc<dyn Repository> = memory.clone();
        (probe(&repository).await.unwrap(), memory.keys())
    }

    #[tokio::test]
    async fn each_way_a_store_can_break_conditions_is_told_apart() {
        let (honoured, left) = found(Conditions::Atomic).await;
        assert_eq!((honoured, left), (ConditionalWrites::Honoured, vec![]));
        assert!(honoured.can_fence());
        let (apart, _) = found(Conditions::CheckedApart).await;
        assert_eq!(apart, ConditionalWrites::NotUnderConcurrency { winners: RACERS });
        assert!(!apart.can_fence());
        let (ignored, left) = found(Conditions::Ignored).await;
        assert_eq!((ignored, left), (ConditionalWrites::Ignored, vec![]));
    }
}
