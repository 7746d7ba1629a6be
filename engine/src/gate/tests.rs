//! Who waits at the gate, who is refused, and what they are told.

use std::sync::Barrier;
use std::thread;

use super::*;
use crate::mutant::with_mutant;

fn gate() -> Gate {
    Gate::new(Path::new("/d"), Bands { frozen_max: 4, level1_bytes: 1 << 20 })
}

#[test]
fn a_writer_waits_longer_the_more_waits_to_be_written_and_never_long_at_once() {
    let gate = gate();
    let slowed_at = |frozen| {
        gate.update_debt(|| (frozen, 0.0, 0));
        let before = gate.waits().slowed_for;
        (0..8).for_each(|_| gate.slow(64 << 10, || 0.0, None).unwrap());
        gate.waits().slowed_for - before
    };
    let [none, some, much] = [0, 2, 3].map(slowed_at);
    assert_eq!(none, Duration::ZERO);
    assert!(some < much, "{some:?} at two sets, {much:?} at three");
    assert!(much >= Duration::from_millis(10), "{much:?}");
    assert!(gate.waits().longest <= WAIT_MAX);
    assert_eq!(gate.waits().stalls, 0, "nobody was stopped");
}

#[test]
fn a_gate_that_slows_nobody_is_noticed() {
    let slowed_for = || {
        let gate = gate();
        gate.update_debt(|| (3, 0.0, 0));
        (0..8).for_each(|_| gate.slow(64 << 10, || 0.0, None).unwrap());
        gate.waits().slowed_for
    };
    assert!(slowed_for() >= Duration::from_millis(10));
    assert_eq!(with_mutant(Mutant::GateSlowsNobody, slowed_for), Duration::ZERO);
}

#[test]
fn a_look_that_took_long_does_not_undo_a_later_one() {
    let gate = gate();
    let looking = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            gate.update_debt(|| {
                looking.wait();
                // The other one comes meanwhile.
                thread::sleep(Duration::from_millis(100));
                (4, 0.0, 0)
            });
        });
        looking.wait();
        gate.update_debt(|| (0, 0.0, 0));
    });
    gate.pass(None, Duration::ZERO).expect("nothing waits to be written out");
}

#[test]
fn a_deadline_that_comes_before_the_turn_is_backpressure_at_once() {
    let gate = gate();
    gate.update_debt(|| (0, LEVEL0_MAX, 0));
    gate.slow(1 << 20, || 0.0, None).unwrap();
    let refused = gate.slow(1, || 0.0, Some(Instant::now())).unwrap_err();
    assert!(matches!(refused, Error::Backpressure(_)), "{refused}");
}

#[test]
fn who_waits_for_a_worker_that_fails_again_and_again_is_told_why_and_let_in_when_it_does_not() {
    let gate = gate();
    let failed = || Error::Io {
        operation: "create",
        path: PathBuf::from("/d/tables/1"),
        source: std::sync::Arc::new(std::io::Error::from_raw_os_error(30)),
    };
    let fail = |worker| gate.set_outcome(worker, Err(failed()));
    let pass = |patience| gate.pass(None, Duration::from_millis(patience));
    (0..TRIES_BORNE).for_each(|_| fail(Worker::Flusher));
    pass(0).expect("there is room in memory");
    gate.update_debt(|| (4, 0.0, 0));
    let refused = pass(60_000).unwrap_err().to_string();
    assert!(refused.contains("writing memtables out") && refused.contains("cannot create /d/tables/1"), "{refused}");
    assert_eq!(gate.refusal().unwrap().to_string(), refused);
    // It is not this worker who would make room on level 0.
    gate.update_debt(|| (0, LEVEL0_MAX, 0));
    assert!(matches!(pass(0), Err(Error::Backpressure(_))));
    fail(Worker::Compactor);
    assert!(gate.refusal().is_none(), "some errors pass");
    assert!(matches!(pass(0), Err(Error::Stuck { work: "merging tables", .. })), "but not before the deadline");
    gate.update_debt(|| (4, 0.0, 0));
    gate.set_outcome(Worker::Flusher, Ok(()));
    assert!(matches!(pass(0), Err(Error::Backpressure(_))));
    gate.update_debt(|| (0, 0.0, 0));
    pass(0).unwrap();
}

#[test]
fn a_worker_that_is_gone_does_not_come_back_because_somebody_else_did_its_work_once() {
    let gate = gate();
    gate.update_debt(|| (4, 0.0, 0));
    gate.set_outcome(Worker::Flusher, Err(Error::Poisoned { cause: "it panicked".into() }));
    gate.set_outcome(Worker::Flusher, Ok(()));
    assert!(matches!(gate.pass(None, Duration::ZERO), Err(Error::Poisoned { .. })));
}

#[test]
fn one_large_batch_does_not_make_the_next_writer_wait_long() {
    let gate = gate();
    gate.update_debt(|| (0, LEVEL0_MAX, 0));
    gate.slow(16 << 20, || 0.0, None).unwrap();
    let started = Instant::now();
    gate.slow(1, || 0.0, None).unwrap();
    assert!(started.elapsed() >= WAIT_MAX, "it does wait");
    assert!(gate.waits().longest <= WAIT_MAX, "{:?}", gate.waits().longest);
}
