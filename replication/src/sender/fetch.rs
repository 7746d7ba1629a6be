//! The conversation with a node that repairs a segment: it asks for a group, gets it, and asks for the next. It is no
//! standby, so nothing is kept for it and nothing waits for it. What may be asked for is judged here; a place that need not
//! be the end of a record is never read from, because that would look like damage of this node's own log.

use std::time::{Duration, Instant};

use seawall_wal::{LogBytes, Lsn, Timestamp};

use super::{Action, LogState, READ_BYTES, ReadOutcome, Sender, SenderConfig, State, pieces};
use crate::ended::Ended;
use crate::error::ProtocolError;
use crate::message::{Fetch, Message, PROTOCOL_VERSIONS, Refusal};
use crate::mutant::{Mutant, planted};

/// Where such a conversation stands.
#[derive(Debug)]
pub(super) struct Fetching {
    /// Where the last answer ended.
    pub(super) next: Option<Lsn>,
    /// What is being read.
    asked: Option<Fetch>,
    /// Until then the answer is taken and the next question asked.
    pub(super) until: Instant,
}

impl Fetching {
    /// What another message comes in the middle of.
    pub(super) const fn doing(&self) -> &'static str {
        if self.asked.is_some() { "a fetch was being answered" } else { "the next fetch was awaited" }
    }

    pub(super) const fn is_reading(&self) -> bool {
        self.asked.is_some()
    }
}

impl Sender {
    /// Has the log read that is asked for, if it may be. `next` is where the last answer ended, if there was one.
    pub(super) fn fetch(&mut self, next: Option<Lsn>, fetch: Fetch, now: Instant, actions: &mut Vec<Action>) {
        let at_start = fetch.segment_size.start_of(fetch.segment_size.segment_of(fetch.from)) == fetch.from;
        if !at_start && next != Some(fetch.from) && !planted(Mutant::FetchedFromAnywhere) {
            return self.close(ProtocolError::ImpossibleFetch { from: fetch.from }.into(), actions);
        }
        if let Err(refusal) = judge(&fetch, &self.config, &self.log) {
            return self.refuse(refusal, actions);
        }
        self.state = State::Fetching(Fetching { next, asked: Some(fetch), until: now + self.config.timeout });
        actions.push(Action::Read { from: fetch.from, bytes_max: READ_BYTES });
    }

    /// Answers with what was read.
    pub(super) fn answer_fetch(
        &mut self,
        outcome: ReadOutcome,
        now: Instant,
        wall: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let State::Fetching(fetching) = &mut self.state else { return };
        let fetch = fetching.asked.take().expect("a read came back that was not asked for");
        match outcome {
            ReadOutcome::Group(group) if is_it(&group, &fetch) => {
                self.log.flush = self.log.flush.max(group.end());
                fetching.next = Some(group.end());
                let data: Vec<_> = pieces(group, self.log.flush, wall).collect();
                fetching.until = now + patience(self.config.timeout, data.len());
                actions.extend(data.into_iter().map(|data| Action::Send(Message::Data(data))));
            }
            // The log follows a history we have not been told of yet.
            ReadOutcome::Group(_) => self.refuse(Refusal::NotServing, actions),
            ReadOutcome::Nothing if !self.log.is_open => self.refuse(Refusal::NotServing, actions),
            ReadOutcome::Nothing => self.refuse(Refusal::Ahead { flush: self.log.flush }, actions),
            ReadOutcome::Removed { oldest } => self.refuse(Refusal::Removed { oldest }, actions),
            ReadOutcome::Failed(why) => self.close(Ended::Storage(why), actions),
        }
    }
}

/// Time to take so many frames, and to ask again.
fn patience(timeout: Duration, frames: usize) -> Duration {
    timeout * (1 + u32::try_from(frames).expect("a group has at most 17 frames"))
}

fn is_it(group: &LogBytes, fetch: &Fetch) -> bool {
    group.start == fetch.from && group.timeline == fetch.timeline
}

/// Whether what is asked for may be given, as far as what is known of the log tells.
fn judge(fetch: &Fetch, config: &SenderConfig, log: &LogState) -> Result<(), Refusal> {
    let (lowest, highest) = PROTOCOL_VERSIONS;
    if fetch.versions.0 > highest || fetch.versions.1 < lowest {
        return Err(Refusal::Version { lowest, highest });
    }
    if fetch.cluster != config.cluster && !planted(Mutant::StrangersFetch) {
        return Err(Refusal::WrongCluster);
    }
    let size = config.segment_size;
    if fetch.segment_size != size || fetch.log_format < seawall_wal::format::FORMAT_VERSION {
        return Err(Refusal::Format { segment_size: size.bytes() });
    }
    let (here, current) = (log.history.of_segment(size.segment_of(fetch.from), size), log.history.current().id);
    if fetch.timeline > current {
        return Err(Refusal::OlderTimeline { current });
    }
    if here.id != fetch.timeline || fetch.from >= log.history.end_of(here.id) {
        let newer = log.history.entries().iter().find(|entry| entry.id > fetch.timeline);
        let common = newer.unwrap_or(log.history.current()).fork;
        return Err(Refusal::Diverged { common, history: Box::new(log.history.clone()) });
    }
    if !log.is_open {
        return Ok(());
    }
    if fetch.from >= log.flush {
        return Err(Refusal::Ahead { flush: log.flush });
    }
    if fetch.from < log.oldest {
        return Err(Refusal::Removed { oldest: log.oldest });
    }
    Ok(())
}
