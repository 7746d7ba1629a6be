//! Watches the primary while the story runs: lag of each standby and of the archive, what the throttle does, and whether
//! anything was let in past the ceiling.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::api::Api;
use super::report::Samples;
use crate::http::api::ThrottleMode;

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Replay lag of each standby, seconds.
    pub(super) lag_seconds: BTreeMap<String, Samples>,
    /// Of the archive: what a disaster would have lost, seconds.
    pub(super) archive_lag_seconds: Samples,
    /// The largest `end - flush` of the required standby, bytes.
    pub(super) required_lag_bytes_max: u64,
    /// When the pause that is on began, and why: reason and subject.
    paused: Option<(Instant, Cause)>,
    /// The longest pause of each cause. On a busy machine the archive may fall behind beside the standby.
    pauses: BTreeMap<Cause, Duration>,
}

/// Reason and subject of a pause.
type Cause = (String, String);

impl Seen {
    /// The longest pause of one cause, whichever.
    pub(super) fn pause_max(&self) -> Duration {
        self.pauses.values().max().copied().unwrap_or_default()
    }

    /// The longest pause because of `subject`, and its reason.
    pub(super) fn pause_because_of(&self, subject: &str) -> Option<(Duration, &Cause)> {
        let of_subject = self.pauses.iter().filter(|((_, whose), _)| whose.contains(subject));
        of_subject.map(|(cause, time)| (*time, cause)).max()
    }
}

/// The watcher's thread.
pub(super) struct Sampler {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Watches the node behind `api` until dropped. `required` is the standby whose lag is bounded.
    pub(super) fn start(api: Api, required: &str) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (seen, stop, required) = (seen.clone(), stop.clone(), required.to_owned());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    sample(&api, &required, &seen);
                    std::thread::sleep(Duration::from_millis(50));
                }
            })
        };
        Self { seen, stop, thread: Some(thread) }
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn sample(api: &Api, required: &str, seen: &Mutex<Seen>) {
    // The status first: a standby that confirms in between can only make the distance look smaller, never larger.
    let (Ok(status), Ok(replicas)) = (api.status(), api.replicas()) else { return };
    let mut seen = seen.lock();
    for replica in &replicas.replicas {
        if replica.name == required {
            let lag = status.log.end.0.distance_from(replica.flush.lsn.0);
            seen.required_lag_bytes_max = seen.required_lag_bytes_max.max(lag);
        }
        seen.lag_seconds.entry(replica.name.clone()).or_default().add(replica.replay.lag.seconds);
    }
    if let Some(archive) = &status.archive {
        seen.archive_lag_seconds.add(archive.lag.seconds);
    }
    match status.throttle.mode {
        ThrottleMode::Paused => {
            let cause = (status.throttle.reason.unwrap_or_default(), status.throttle.subject.unwrap_or_default());
            let since = match &seen.paused {
                Some((since, before)) if *before == cause => *since,
                _ => Instant::now(),
            };
            seen.paused = Some((since, cause.clone()));
            let longest = seen.pauses.entry(cause).or_default();
            *longest = since.elapsed().max(*longest);
        }
        ThrottleMode::Free | ThrottleMode::Limited => seen.paused = None,
    }
}
