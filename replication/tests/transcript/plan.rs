//! Plans: what each source covers, where the node stands, and the way the planner takes, step by step.

use seawall_replication::feed::{BackupOffer, Coverage, Feed, Goal, Sources, Standing, next_feed};
use seawall_wal::{Chain, Lsn, Position, SegmentSize, TimelineHistory, TimelineId, TimelineNonce};

use super::{Command, World};

pub(crate) struct PlanWorld {
    sources: Sources,
    history: TimelineHistory,
}

impl PlanWorld {
    pub(crate) fn new() -> Self {
        let history = TimelineHistory::first(TimelineNonce::from_bytes([1; 16]));
        Self { sources: Sources::default(), history }
    }
}

fn coverage(text: &str) -> Option<Coverage> {
    let (from, to) = text.split_once("..")?;
    Some(Coverage { from: from.parse().unwrap(), to: to.parse().unwrap() })
}

impl World for PlanWorld {
    fn run(&mut self, command: &Command) -> Vec<String> {
        match command.verb.as_str() {
            "upstream" => self.sources.upstream = coverage(command.word(0)),
            "archive" => self.sources.archive = coverage(command.word(0)),
            "backup" => self.sources.backups.push(BackupOffer {
                id: command.word(0).to_owned(),
                redo: command.need("redo"),
                stop: command.need("stop"),
            }),
            "fork" => {
                let fork = Position { lsn: command.word(0).parse().unwrap(), chain: Chain(1) };
                let id = self.history.current().id.next();
                let nonce = TimelineNonce::from_bytes([id.0 as u8; 16]);
                self.history = self.history.forked(id, nonce, fork, SegmentSize::MIN).unwrap();
                assert!(self.history.current().id > TimelineId::FIRST);
            }
            "plan" => return self.plan(command),
            verb => panic!("unknown command `{verb}`"),
        }
        Vec::new()
    }
}

impl PlanWorld {
    /// Every step up to the live log, as if each succeeded.
    fn plan(&self, command: &Command) -> Vec<String> {
        let mut standing = command.get::<Lsn>("at").map_or(Standing::Nothing, Standing::At);
        let goal = command.get::<Lsn>("reach").map_or(Goal::Live, Goal::Reach);
        let mut steps = Vec::new();
        loop {
            let feed = next_feed(standing, goal, &self.sources, &self.history);
            steps.push(feed.to_string());
            standing = match feed {
                Feed::Archive { to, .. } => Standing::At(to),
                Feed::BaseBackup(backup) => Standing::At(backup.redo),
                Feed::Stream { .. } | Feed::Arrived | Feed::Wait { .. } => return steps,
            };
            assert!(steps.len() < 10, "{steps:?}");
        }
    }
}
