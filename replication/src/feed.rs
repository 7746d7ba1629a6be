//! The planner: where does a node's next log come from? Given what each source covers, it names the cheapest way from where
//! the node stands to where it wants to be: the upstream's own log, then the archive, then a base backup and the log after it.
//! A pure function, asked again whenever a step is done or fails; standbys and restores ask it alike.

use std::fmt;

use seawall_wal::{Lsn, TimelineHistory};

/// A stretch of log a source can hand over, on the history the plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Its first byte.
    pub from: Lsn,
    /// Where it ends now. For an upstream that goes on growing, its flush LSN or `Lsn::MAX`.
    pub to: Lsn,
}

/// A base backup on the history the plan is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupOffer {
    /// Its id.
    pub id: String,
    /// Where the log must go on after taking it: a segment's start, at or before where its tables end.
    pub redo: Lsn,
    /// The log up to here makes it consistent. `redo <= stop`.
    pub stop: Lsn,
}

/// What can be had at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The upstream's local segments, if it can be reached.
    pub upstream: Option<Coverage>,
    /// The archive's log, without gaps, if there is an archive that can be reached.
    pub archive: Option<Coverage>,
    /// Base backups in the archive.
    pub backups: Vec<BackupOffer>,
}

/// Where the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its log ends here, on the history the plan is for.
    At(Lsn),
    /// It has nothing that can be continued: it is empty or has diverged.
    Nothing,
}

/// Where the node wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// As far as anybody is, and following from there.
    Live,
    /// Exactly here.
    Reach(Lsn),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Stream from the upstream.
    Stream {
        /// The first byte to ask for.
        from: Lsn,
    },
    /// Fetch from the archive, then ask again.
    Archive {
        /// The first byte to fetch.
        from: Lsn,
        /// Where to stop.
        to: Lsn,
    },
    /// Take a base backup, then ask again at its redo position.
    BaseBackup(BackupOffer),
    /// There is nothing to do.
    Arrived,
    /// Nothing is known to have the log at this position now; ask again when a source grows or returns.
    Wait {
        /// The first byte nobody has.
        missing: Lsn,
        /// Whether waiting can help: the position is the end of what exists, or a source is away.
        hopeful: bool,
    },
}

/// Decides what comes next.
pub fn next_feed(standing: Standing, goal: Goal, sources: &Sources, history: &TimelineHistory) -> Feed {
    let view = View { sources, history };
    let target = match goal {
        Goal::Live => view.frontier(),
        Goal::Reach(lsn) => Some(lsn),
    };
    match standing {
        Standing::At(at) => {
            if let Goal::Reach(lsn) = goal
                && at >= lsn
            {
                return Feed::Arrived;
            }
            view.by_log(at, target).or_else(|| view.by_backup(Some(at), target)).unwrap_or_else(|| view.wait(at))
        }
        Standing::Nothing => view.by_backup(None, target).unwrap_or_else(|| {
            // A cluster so young that its log begins at the beginning needs no base backup.
            view.by_log(Lsn::ZERO, target).unwrap_or_else(|| view.wait(Lsn::ZERO))
        }),
    }
}

struct View<'a> {
    sources: &'a Sources,
    history: &'a TimelineHistory,
}

impl View<'_> {
    /// The next step by log alone, if log alone can get anywhere from `at`.
    fn by_log(&self, at: Lsn, target: Option<Lsn>) -> Option<Feed> {
        let from = self.history.next_byte(at);
        if self.sources.upstream.is_some_and(|upstream| self.covers(upstream, at)) {
            return Some(Feed::Stream { from });
        }
        let archive = self.sources.archive.filter(|archive| self.covers(*archive, at) && archive.to > from)?;
        // Past a hole that only a base backup can bridge, fetching the log before it would be wasted.
        let end = self.reach(at);
        if target.is_some_and(|target| end < target) && self.by_backup(Some(at), target).is_some() {
            return None;
        }
        // Leave the archive as soon as the upstream can take over: it is ahead, and cheaper.
        let handover =
            self.sources.upstream.map(|upstream| upstream.from).filter(|lsn| *lsn > from && *lsn <= archive.to);
        let to = handover.unwrap_or(archive.to);
        Some(Feed::Archive { from, to: target.map_or(to, |target| to.min(target.max(from))) })
    }

    /// The newest base backup that brings the node forward and from which log leads to the target.
    fn by_backup(&self, at: Option<Lsn>, target: Option<Lsn>) -> Option<Feed> {
        let useful = self.sources.backups.iter().filter(|backup| {
            at.is_none_or(|at| backup.redo > at)
                && target.is_none_or(|target| backup.stop <= target)
                && self.reach(backup.redo) >= target.unwrap_or(backup.stop).max(backup.stop)
        });
        useful.max_by_key(|backup| backup.redo).cloned().map(Feed::BaseBackup)
    }

    /// How far log alone leads from `at`.
    fn reach(&self, at: Lsn) -> Lsn {
        let mut reached = at;
        // Two sources: each can carry the other on at most once.
        for _ in 0..2 {
            for source in [self.sources.upstream, self.sources.archive].into_iter().flatten() {
                if self.covers(source, reached) {
                    reached = reached.max(source.to);
                }
            }
        }
        reached
    }

    /// Whether the byte after position `at` is in the stretch, or is the one that will be added to it next.
    fn covers(&self, stretch: Coverage, at: Lsn) -> bool {
        let next = self.history.next_byte(at);
        stretch.from <= next && (next <= stretch.to || at == stretch.to)
    }

    /// The furthest position any source has.
    fn frontier(&self) -> Option<Lsn> {
        [self.sources.upstream, self.sources.archive].into_iter().flatten().map(|source| source.to).max()
    }

    fn wait(&self, at: Lsn) -> Feed {
        let at_end = self.frontier().is_none_or(|frontier| frontier <= at);
        let away = self.sources.upstream.is_none() || self.sources.archive.is_none();
        Feed::Wait { missing: self.history.next_byte(at), hopeful: at_end || away }
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream { from } => write!(f, "stream from {from}"),
            Self::Archive { from, to } => write!(f, "archive {from}..{to}"),
            Self::BaseBackup(backup) => {
                write!(f, "base backup {} (redo {}, stop {})", backup.id, backup.redo, backup.stop)
            }
            Self::Arrived => write!(f, "arrived"),
            Self::Wait { missing, hopeful: true } => write!(f, "wait for {missing}"),
            Self::Wait { missing, hopeful: false } => write!(f, "nothing has {missing}"),
        }
    }
}

#[cfg(test)]
mod tests;
