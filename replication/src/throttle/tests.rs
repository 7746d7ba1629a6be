//! The throttle against a simulated drain: the exact rules hold at every step whatever happens, the accepted rate settles on
//! what is drained, and a pause ends at the target. Time is simulated in milliseconds, so ten seconds take no time.

use proptest::prelude::*;
use seawall_wal::TimelineNonce;

use super::*;
use crate::lag::SAMPLES_DEFAULT;

const MIB: u64 = 1 << 20;
const PAYLOAD: usize = 4 << 10;

/// A log, a consumer that drains it, and a writer that commits whenever it may.
struct Simulation {
    throttle: Throttle,
    clock: LagClock,
    history: TimelineHistory,
    now: Instant,
    started: Instant,
    end: Lsn,
    /// What the consumer has, and how much of it the throttle was told.
    drained: f64,
    report_every: u64,
    limits: Limits,
    kind: ConsumerKind,
    payload: usize,
    /// Bytes that entered, by millisecond.
    entered: Vec<u64>,
}

impl Simulation {
    fn new(kind: ConsumerKind, limits: Limits) -> Self {
        let now = Instant::now();
        let mut throttle = Throttle::new(limits, now);
        throttle.count(kind, "a", Lsn::ZERO);
        Self {
            throttle,
            clock: LagClock::new(Lsn::ZERO, now, SAMPLES_DEFAULT),
            history: TimelineHistory::first(TimelineNonce::from_bytes([1; 16])),
            now,
            started: now,
            end: Lsn::ZERO,
            drained: 0.0,
            report_every: 10,
            limits,
            kind,
            payload: PAYLOAD,
            entered: Vec::new(),
        }
    }

    /// One millisecond in which the consumer drains at `drain` bytes per second and the writer offers `offer` at most.
    fn step(&mut self, drain: f64, offer: u64) {
        self.now += Duration::from_millis(1);
        let step = self.entered.len() as u64;
        self.drained = (self.drained + drain / 1_000.0).min(self.end.offset() as f64);
        let view = View { clock: &self.clock, history: &self.history, append_end: self.end };
        if step.is_multiple_of(self.report_every) {
            self.throttle.progress(self.kind, "a", Lsn::new(self.drained as u64), &view, self.now);
        }
        let record = (RECORD_HEADER_SIZE + self.payload) as u64;
        let mut entered = 0;
        while entered + record <= offer {
            let view = View { clock: &self.clock, history: &self.history, append_end: self.end };
            let Verdict::Admit { reserved } = self.throttle.admit(self.payload, None, &view, self.now) else {
                break;
            };
            self.check_rules();
            self.end = self.end.advance(record);
            self.throttle.release(reserved, record, self.now);
            entered += record;
        }
        self.clock.flushed(self.end, self.now);
        self.entered.push(entered);
    }

    fn run(&mut self, millis: u64, drain: f64, offer: u64) {
        for _ in 0..millis {
            self.step(drain, offer);
        }
    }

    /// What must hold at the moment something was admitted.
    fn check_rules(&self) {
        let consumer = &self.throttle.consumers[0];
        let lag = self.end.distance_from(consumer.confirmed) + self.throttle.reserved;
        if let (_, Some(bound)) = self.limits.bytes(self.kind) {
            assert!(lag <= bound.ceiling - INTERNAL_RESERVE, "{lag} bytes are out with a ceiling of {}", bound.ceiling);
        }
        if let (_, Some(bound)) = self.limits.time(self.kind) {
            let age = self.clock.lag(consumer.confirmed, &self.history, self.now).time;
            assert!(age < bound.ceiling, "a commit entered with the oldest {age:?} old");
        }
    }

    /// Bytes per second over each whole second from `from` on.
    fn rates(&self, from: usize) -> Vec<f64> {
        self.entered[from..].chunks_exact(1_000).map(|second| second.iter().sum::<u64>() as f64).collect()
    }

    fn lag(&self) -> u64 {
        self.end.distance_from(self.throttle.consumers[0].confirmed)
    }

    fn mode(&mut self) -> Mode {
        let view = View { clock: &self.clock, history: &self.history, append_end: self.end };
        self.throttle.mode(&view, self.now).clone()
    }
}

fn bytes(target: u64, ceiling: u64) -> Limits {
    Limits { standby_bytes: Some(Bound { target, ceiling }), ..Limits::default() }
}

fn assert_settles(simulation: &Simulation, from: usize, drain: f64) {
    let rates = simulation.rates(from + 5_000);
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    assert!((mean / drain - 1.0).abs() <= 0.10, "settled at {mean:.0} for {drain:.0}: {rates:?}");
    for rate in &rates {
        assert!((rate / drain - 1.0).abs() <= 0.15, "swings to {rate:.0} for {drain:.0}: {rates:?}");
    }
}

#[test]
fn the_accepted_rate_settles_on_the_drain_when_bytes_are_limited() {
    for drain in [2, 10, 40, 200] {
        let drain = (drain * MIB) as f64;
        let mut simulation = Simulation::new(ConsumerKind::Standby, bytes(64 * MIB, 256 * MIB));
        simulation.run(15_000, drain, MIB);
        assert_settles(&simulation, 0, drain);
    }
}

#[test]
fn the_accepted_rate_settles_on_the_drain_when_time_is_limited() {
    for drain in [2, 10, 40] {
        let drain = (drain * MIB) as f64;
        let limits = Limits { archive_time: None, ..Limits::lag_time(Duration::from_secs(30)) };
        let mut simulation = Simulation::new(ConsumerKind::Standby, limits);
        simulation.run(60_000, drain, MIB);
        // The burst up to the target is let in at full speed; afterwards the rate is the drain's.
        assert_settles(&simulation, 0, drain);
        assert_eq!(simulation.throttle.counters().pauses, 0);
    }
}

#[test]
fn a_drain_that_changes_is_followed() {
    let mut simulation = Simulation::new(ConsumerKind::Standby, bytes(64 * MIB, 512 * MIB));
    simulation.run(10_000, (60 * MIB) as f64, MIB);
    simulation.run(15_000, (20 * MIB) as f64, MIB);
    assert_settles(&simulation, 10_000, (20 * MIB) as f64);
    simulation.run(15_000, (80 * MIB) as f64, MIB);
    assert_settles(&simulation, 25_000, (80 * MIB) as f64);
}

#[test]
fn a_consumer_that_reports_in_bursts_is_followed_too() {
    let limits = Limits { archive_bytes: Some(Bound { target: 64 * MIB, ceiling: 256 * MIB }), ..Limits::default() };
    let mut simulation = Simulation::new(ConsumerKind::Archive, limits);
    simulation.report_every = 500;
    let drain = (16 * MIB) as f64;
    simulation.run(20_000, drain, MIB);
    assert_settles(&simulation, 0, drain);
}

/// Once, an archive that had only ever been given a trickle was thought to be that slow, and a burst was held back.
#[test]
fn a_burst_after_a_trickle_is_not_held_back() {
    let mut simulation = Simulation::new(ConsumerKind::Archive, Limits::lag_time(Duration::from_secs(10)));
    simulation.report_every = 1_000;
    let capacity = (200 * MIB) as f64;
    simulation.run(20_000, capacity, 5 << 10);
    simulation.run(1_000, capacity, MIB / 8);
    let burst = simulation.rates(20_000)[0];
    assert!(burst > 0.99 * 125.0 * MIB as f64 * 0.99, "{burst:.0} bytes entered in the burst's second");
    simulation.run(5_000, capacity, 5 << 10);
    assert_eq!(simulation.throttle.counters().pauses, 0);
}

#[test]
fn a_frozen_standby_slows_then_pauses_and_commits_resume_at_the_target() {
    let mut simulation = Simulation::new(ConsumerKind::Standby, bytes(32 * MIB, 128 * MIB));
    simulation.run(5_000, (100 * MIB) as f64, MIB / 16);
    assert_eq!(simulation.mode(), Mode::Free);
    let frozen = simulation.entered.len();
    simulation.run(20_000, 0.0, MIB / 16);
    let Mode::Paused(limit) = simulation.mode() else {
        panic!("{:?}", simulation.mode());
    };
    assert_eq!((limit.reason, &*limit.subject), (Reason::StandbyLagBytes, "a"));
    let rates = simulation.rates(frozen);
    assert!(rates[0] > rates[2] && rates.last() == Some(&0.0), "{rates:?}");
    assert!(simulation.lag() > 100 * MIB, "it pauses near the ceiling, not before");
    // It thaws: nothing enters until the target is reached.
    let thawed = simulation.entered.len();
    while simulation.entered[thawed..].iter().sum::<u64>() == 0 {
        simulation.run(1, (50 * MIB) as f64, MIB / 16);
        assert!(simulation.entered.len() < thawed + 5_000);
    }
    assert!(simulation.lag() <= 32 * MIB + MIB, "resumed at {} bytes", simulation.lag());
    assert_eq!(simulation.throttle.counters().pauses, 1);
}

#[test]
fn a_required_standby_that_never_comes_lets_in_one_ceiling() {
    let mut simulation = Simulation::new(ConsumerKind::Standby, bytes(MIB, 4 * MIB));
    simulation.run(60_000, 0.0, MIB / 16);
    assert!(simulation.end.offset() <= 4 * MIB && simulation.end.offset() > 2 * MIB, "{}", simulation.end);
    let view = View { clock: &simulation.clock, history: &simulation.history, append_end: simulation.end };
    let verdict = simulation.throttle.admit(PAYLOAD, Some(simulation.now), &view, simulation.now);
    let Verdict::Refuse(backpressure) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(&*backpressure.subject, "a");
    assert!(backpressure.retry_after > Duration::ZERO);
}

#[test]
fn nobody_is_held_back_while_nobody_lags() {
    let mut simulation = Simulation::new(ConsumerKind::Standby, bytes(64 * MIB, 128 * MIB));
    simulation.run(5_000, (400 * MIB) as f64, MIB / 8);
    assert!(simulation.rates(0).iter().all(|rate| *rate > 0.95 * 125.0 * MIB as f64), "{:?}", simulation.rates(0));
    assert_eq!(simulation.throttle.counters().pauses, 0);
}

#[test]
fn a_commit_larger_than_the_ceiling_is_refused_for_good() {
    let mut simulation = Simulation::new(ConsumerKind::Standby, bytes(MIB, 4 * MIB));
    simulation.payload = 4 << 20;
    let view = View { clock: &simulation.clock, history: &simulation.history, append_end: simulation.end };
    let Verdict::Refuse(backpressure) = simulation.throttle.admit(4 << 20, None, &view, simulation.now) else {
        panic!("it entered");
    };
    assert_eq!((backpressure.reason, backpressure.retry_after), (Reason::CommitTooLarge, Duration::MAX));
}

#[test]
fn the_nodes_own_records_enter_when_nothing_else_does() {
    let mut simulation = Simulation::new(ConsumerKind::Standby, bytes(MIB, 4 * MIB));
    simulation.run(30_000, 0.0, MIB);
    let view = View { clock: &simulation.clock, history: &simulation.history, append_end: simulation.end };
    let (reserved, fits) = simulation.throttle.admit_internal(0, &view);
    assert!(reserved > 0 && fits);
    // Even they do not use up more than their reserve without being told.
    let told = (0..100_000).any(|_| !simulation.throttle.admit_internal(0, &view).1);
    assert!(told);
}

#[test]
fn a_filling_disk_slows_and_stops_writes() {
    let disk_free = Some(Bound { target: 100 * MIB, ceiling: 20 * MIB });
    let mut simulation = Simulation::new(ConsumerKind::Standby, Limits { disk_free, ..Limits::default() });
    simulation.throttle.measured(Some(200 * MIB), 0);
    simulation.run(3_000, 1e9, MIB / 16);
    simulation.throttle.measured(Some(60 * MIB), 0);
    simulation.run(3_000, 1e9, MIB / 16);
    let rates = simulation.rates(0);
    assert!(rates[5] < 0.6 * rates[2] && rates[5] > 0.3 * rates[2], "{rates:?}");
    simulation.throttle.measured(Some(20 * MIB), 0);
    simulation.run(1_000, 1e9, MIB / 16);
    assert_eq!(simulation.rates(6_000), [0.0]);
    simulation.throttle.measured(Some(101 * MIB), 0);
    simulation.run(1_000, 1e9, MIB / 16);
    assert!(simulation.rates(7_000)[0] > 0.9 * rates[2]);
}

#[test]
fn limits_without_room_for_large_commits_are_refused() {
    let tight = bytes(64 * MIB, 66 * MIB);
    assert!(matches!(tight.validate(SegmentSize::DEFAULT), Err(InvalidLimit::TooTight { .. })));
    assert_eq!(tight.validate(SegmentSize::MIN), Ok(()));
    assert_eq!(bytes(64 * MIB, 256 * MIB).validate(SegmentSize::DEFAULT), Ok(()));
    let inverted =
        Limits { standby_time: Some(Bound { target: Duration::MAX, ceiling: Duration::ZERO }), ..Limits::default() };
    assert_eq!(inverted.validate(SegmentSize::MIN), Err(InvalidLimit::Inverted { reason: Reason::StandbyLagTime }));
}

#[derive(Clone, Debug)]
enum Event {
    Run { millis: u64, drain_kib: u64, offer_kib: u64 },
    Payload(usize),
    Vanish,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1..400_u64, 0..100_000_u64, 0..2_000_u64)
            .prop_map(|(millis, drain_kib, offer_kib)| Event::Run { millis, drain_kib, offer_kib }),
        2 => (0..200_000_usize).prop_map(Event::Payload),
        1 => Just(Event::Vanish),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// `step` asserts the rules at each admission; here the world around it is anything at all.
    #[test]
    fn the_exact_rules_hold_whatever_happens(
        events in proptest::collection::vec(event(), 1..20), report_every in 1..300_u64, timed: bool
    ) {
        let mut limits = bytes(MIB, 3 * MIB);
        if timed {
            limits.standby_time = Some(Bound { target: Duration::from_millis(300), ceiling: Duration::from_millis(900) });
        }
        let mut simulation = Simulation::new(ConsumerKind::Standby, limits);
        simulation.report_every = report_every;
        for event in events {
            match event {
                Event::Run { millis, drain_kib, offer_kib } => {
                    simulation.run(millis, (drain_kib << 10) as f64, offer_kib << 10);
                }
                Event::Payload(payload) => simulation.payload = payload,
                Event::Vanish => {
                    let confirmed = simulation.throttle.consumers[0].confirmed;
                    simulation.throttle.count(ConsumerKind::Standby, "a", confirmed);
                }
            }
        }
        // And it never locks up: once the consumer drains, commits enter again.
        simulation.payload = 100;
        simulation.report_every = 10;
        simulation.run(3_000, (50 * MIB) as f64, 0);
        simulation.run(1_000, (50 * MIB) as f64, MIB / 100);
        prop_assert!(simulation.rates(simulation.entered.len() - 1_000)[0] > 0.0);
        prop_assert!(simulation.now > simulation.started);
    }
}
