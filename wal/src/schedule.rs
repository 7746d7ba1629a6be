//! What threads ask of the scheduler. A short turn on the processor for the thread that flushes. It runs for microseconds at a time and then waits for the
//! device; behind busy threads with turns of milliseconds every commit would wait for the end of theirs. And a place behind
//! others for threads whose work can wait.

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
    attributes.size = size;
    attributes.sched_runtime = TURN_NANOS;
    // SAFETY: the kernel reads `size` bytes of the structure, which lives throughout the call.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const attributes, NO_FLAGS) };
    if set != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "the flusher runs with ordinary turns");
    }
}

/// Nothing to ask for here.
#[cfg(not(target_os = "linux"))]
pub fn ask_for_short_turns() {}

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
        std::thread::spawn(move || {
            let (policy, nice, before) = of_this_thread();
            ask_for_short_turns();
            let after = of_this_thread();
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
