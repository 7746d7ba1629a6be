//! What threads ask of the scheduler. A short turn on the processor for the thread that flushes. It runs for microseconds at a time and then waits for the
//! device; behind busy threads with turns of milliseconds every commit would wait for the end of theirs. And a place behind
//! others for threads whose work can wait.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

std::thread_local! {
    /// Of the calling thread, if it asked for short turns and got them.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

/// A thread's turn, as it counts it itself.
#[derive(Clone, Copy)]
struct Turn {
    /// It has not been at work for so long before.
    look: Instant,
    /// The processor time it had had when it began.
    began: Duration,
}

/// How long a thread works before it ends its turn. That costs what is left of a turn of the kernel's, if others want the
/// processor too.
const OWN_TURN: Duration = Duration::from_micros(250);

/// The shortest turn the kernel grants.
#[cfg(target_os = "linux")]
const TURN_NANOS: u64 = 100_000;

/// Asks for short turns for the calling thread. Needs no privilege and Linux 6.12 or newer; elsewhere nothing changes.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn ask_for_short_turns() {
    const THIS_THREAD: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: the structure is plain numbers, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes into the structure, which lives throughout the call.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, &raw mut attributes, size, NO_FLAGS) };
    // A thread that was given another policy on purpose keeps it.
    if got != 0 || attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return;
    }
    // A kernel that knows of no turns says nothing about them, and takes whatever it is asked for.
    let knows = attributes.sched_runtime != 0;
    attributes.size = size;
    attributes.sched_runtime = TURN_NANOS;
    // SAFETY: the kernel reads `size` bytes of the structure, which lives throughout the call.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const attributes, NO_FLAGS) };
    // The model checker's threads are one thread, and its own to schedule.
    TURN.set((set == 0 && knows && !cfg!(shuttle)).then(Turn::begin));
    if set != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "the flusher runs with ordinary turns");
    }
}

/// Nothing to ask for here.
#[cfg(not(target_os = "linux"))]
pub fn ask_for_short_turns() {}

impl Turn {
    fn begin() -> Self {
        Self { look: Instant::now() + OWN_TURN, began: processor_time() }
    }
}

/// Time the calling thread was on a processor.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// Whether the calling thread has short turns.
pub fn has_short_turns() -> bool {
    TURN.get().is_some()
}

/// Lets whoever waits for this processor have it, if the calling thread has short turns and has worked for a quarter of a
/// millisecond. The kernel looks at the end of a turn, however short, only when somebody wakes and at its tick, up to four
/// milliseconds later. So who works for long calls this every now and then; it takes a look at the clock. A thread that has
/// ordinary turns keeps them. True if the turn was ended.
pub fn end_turn() -> bool {
    let Some(turn) = TURN.get().filter(|turn| Instant::now() >= turn.look) else { return false };
    // It may have been off the processor meanwhile, which was turn enough for others.
    let worked = processor_time().saturating_sub(turn.began);
    let ended = worked >= OWN_TURN;
    if ended {
        std::thread::yield_now();
        TURN.set(Some(Turn::begin()));
    } else {
        TURN.set(Some(Turn { look: Instant::now() + (OWN_TURN - worked), ..turn }));
    }
    ended
}

/// How nice a thread is that works behind everybody's back: it gets a tenth of a processor that others want whole.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Makes the calling thread, and those it starts, stand behind others: it gets a smaller share of a busy processor, for
/// short turns, and its reads and writes come after others' where the device's queue has an order. There is no way back.
/// Needs no privilege; what the system refuses is left as it is.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn give_way() {
    const THIS_THREAD: libc::c_int = 0;
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_BEST_EFFORT: libc::c_int = 2;
    // The last of the eight of its class. The class behind it is served when nobody else wants anything, which on a busy
    // device is never.
    const LEVEL_LAST: libc::c_int = 7;
    let priority = IOPRIO_CLASS_BEST_EFFORT << 13 | LEVEL_LAST;
    // SAFETY: the calls take numbers and change the calling thread only.
    let refused = unsafe {
        // A thread that is nicer already stays so.
        let nice = match libc::getpriority(libc::PRIO_PROCESS, THIS_THREAD as libc::id_t) {
            before if before < NICE => libc::setpriority(libc::PRIO_PROCESS, THIS_THREAD as libc::id_t, NICE),
            _ => 0,
        };
        let order = libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, THIS_THREAD, priority);
        nice != 0 || order != 0
    };
    if refused {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a background thread runs like any other");
    }
    ask_for_short_turns();
}

/// Nothing to ask for here.
#[cfg(not(target_os = "linux"))]
pub fn give_way() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn a_thread_that_asks_gets_short_turns_and_keeps_its_nice_value() {
        let of_this_thread = || {
            // SAFETY: as above.
            unsafe {
                let mut attributes: libc::sched_attr = std::mem::zeroed();
                let size = size_of::<libc::sched_attr>() as libc::c_uint;
                let got = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0);
                assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
                (attributes.sched_policy, attributes.sched_nice, attributes.sched_runtime)
            }
        };
        assert!(!end_turn(), "a thread that did not ask has none");
        std::thread::spawn(move || {
            let (policy, nice, before) = of_this_thread();
            assert!(!has_short_turns());
            ask_for_short_turns();
            let after = of_this_thread();
            assert_eq!(has_short_turns(), after.2 == TURN_NANOS);
            let works_for = |time: Duration| {
                let began = processor_time();
                while processor_time() - began < time {}
            };
            assert!(!end_turn(), "it has just begun");
            works_for(OWN_TURN);
            assert_eq!(end_turn(), has_short_turns());
            assert!(!end_turn(), "the next has just begun");
            std::thread::sleep(2 * OWN_TURN);
            assert!(!end_turn(), "others had the processor");
            assert_eq!((after.0, after.1), (policy, nice));
            // A kernel before 6.12 says nothing about turns.
            assert!(before == 0 || after.2 == TURN_NANOS, "{before} ns before, {} ns after", after.2);
        })
        .join()
        .unwrap();
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_thread_that_gives_way_is_nice_and_so_are_those_it_starts_and_nobody_else() {
        // SAFETY: the call takes numbers and changes nothing.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let (own, started) = std::thread::spawn(move || {
            give_way();
            (nice(), std::thread::spawn(nice).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!((own, started), (NICE.max(before), NICE.max(before)));
        assert_eq!(nice(), before);
    }
}
