//! Carries out what the receiver asks for on threads that may block: one writes and follows, in order; one flushes; one
//! applies, late if the standby is delayed. When the conversation ends, they are waited for, so that nothing is written
//! behind the next one's back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc as threads;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use seawall_wal::{LogBytes, Lsn, TimelineHistory};
use tokio::sync::mpsc;

use super::target::StandbyTarget;
use crate::error::{Error, Result};
use crate::receiver::Event;

/// The threads of one conversation.
pub(super) struct Hands {
    writes: threads::Sender<Write>,
    flushes: threads::Sender<()>,
    applies: threads::Sender<Lsn>,
    threads: Vec<JoinHandle<()>>,
    delay: Option<Duration>,
    /// What was written and is to be applied when its time comes: a few a second, however much is written.
    late: VecDeque<(Instant, Lsn)>,
    applying: bool,
    flushed: Lsn,
}

enum Write {
    Log(LogBytes),
    Follow(TimelineHistory),
}

/// Deferred applies that come due within this are one.
const LATE_GRAIN: Duration = Duration::from_millis(10);

impl Hands {
    /// Starts the threads; what they did comes out of `done`. With a delay, log is applied that much after it was written.
    pub(super) fn start(
        target: &Arc<dyn StandbyTarget>,
        delay: Option<Duration>,
        done: &mpsc::UnboundedSender<Event>,
    ) -> Result<Self> {
        let (writes, to_write) = threads::channel();
        let (flushes, to_flush) = threads::channel();
        let (applies, to_apply) = threads::channel();
        let mut hands = Self {
            writes,
            flushes,
            applies,
            threads: Vec::new(),
            delay,
            late: VecDeque::new(),
            applying: false,
            flushed: target.positions().flush,
        };
        if let Some(delay) = delay {
            hands.late.push_back((Instant::now() + delay, hands.flushed));
        }
        // Each thread has at most what the upstream was granted in its queue, so unbounded channels are bounded.
        let (worker, events) = (target.clone(), done.clone());
        hands.spawn("seawall-receive", move || write_all(&*worker, &to_write, delay.is_some(), &events))?;
        let (worker, events) = (target.clone(), done.clone());
        hands.spawn("seawall-sync", move || {
            for () in to_flush {
                let flushed = worker.flush().map(Event::Flushed);
                let _ = events.send(flushed.unwrap_or_else(|error| Event::Failed(error.to_string())));
            }
        })?;
        if delay.is_some() {
            let (worker, events) = (target.clone(), done.clone());
            hands.spawn("seawall-apply", move || {
                for to in to_apply {
                    let applied = worker.apply(to).map(Event::Applied);
                    let _ = events.send(applied.unwrap_or_else(|error| Event::Failed(error.to_string())));
                }
            })?;
        }
        Ok(hands)
    }

    pub(super) fn write(&mut self, log: LogBytes) {
        if let Some(delay) = self.delay {
            let due = Instant::now() + delay;
            match self.late.back_mut() {
                Some((last, end)) if due.saturating_duration_since(*last) < LATE_GRAIN => *end = log.end(),
                _ => self.late.push_back((due, log.end())),
            }
        }
        let _ = self.writes.send(Write::Log(log));
    }

    pub(super) fn follow(&self, history: TimelineHistory) {
        let _ = self.writes.send(Write::Follow(history));
    }

    pub(super) fn flush(&self) {
        let _ = self.flushes.send(());
    }

    /// Takes note of what was done, and applies what has become due: only what is flushed, and one piece at a time.
    pub(super) fn done(&mut self, event: &Event) {
        match event {
            Event::Flushed(lsn) => self.flushed = self.flushed.max(*lsn),
            Event::Applied(_) => self.applying = false,
            _ => {}
        }
        self.apply_due();
    }

    pub(super) fn apply_due(&mut self) {
        let mut to = None;
        while !self.applying
            && let Some((due, lsn)) = self.late.front()
            && *due <= Instant::now()
            && *lsn <= self.flushed
        {
            to = Some(*lsn);
            self.late.pop_front();
        }
        if let Some(to) = to {
            self.applying = true;
            let _ = self.applies.send(to);
        }
    }

    /// When [`apply_due`](Self::apply_due) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.late.front().filter(|(_, lsn)| !self.applying && *lsn <= self.flushed).map(|(due, _)| *due)
    }

    /// Waits for the threads to finish what they were given. Blocks.
    pub(super) fn finish(self) -> Result<()> {
        let Self { writes, flushes, applies, threads, .. } = self;
        drop((writes, flushes, applies));
        for thread in threads {
            thread.join().map_err(|_| Error::Stopped("a thread that writes received log panicked"))?;
        }
        Ok(())
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        let failed = |source| Error::Network {
            operation: "start a thread for",
            peer: name.to_owned(),
            source: Arc::new(source),
        };
        self.threads.push(spawned.map_err(failed)?);
        Ok(())
    }
}

fn write_all(
    target: &dyn StandbyTarget,
    writes: &threads::Receiver<Write>,
    delayed: bool,
    events: &mpsc::UnboundedSender<Event>,
) {
    // A node that was delayed before has written more than it applied.
    if !delayed && let Err(error) = catch_up(target) {
        let _ = events.send(Event::Failed(error.to_string()));
        return;
    }
    for write in writes {
        let done = match write {
            Write::Follow(history) => target.follow(&history).map(|()| None),
            Write::Log(log) if delayed => target.write_unapplied(&log).map(Some),
            Write::Log(log) => target.write(&log).map(Some),
        };
        match done {
            Ok(None) => {}
            Ok(Some(position)) => {
                let _ = events.send(Event::Written(position));
                if !delayed {
                    let _ = events.send(Event::Applied(target.applied()));
                }
            }
            Err(error) => {
                let _ = events.send(Event::Failed(error.to_string()));
                // What comes after continues what could not be written.
                return;
            }
        }
    }
}

/// Applies what was written and left unapplied.
pub(super) fn catch_up(target: &dyn StandbyTarget) -> Result<()> {
    let end = target.position().lsn;
    if target.applied() < end {
        target.flush()?;
        target.apply(end)?;
    }
    Ok(())
}
