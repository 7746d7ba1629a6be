//! As the model checker has them. Each operation is a point at which it may let another thread go on; a run in which
//! nobody can is a failure. Its locks never end up poisoned, as `parking_lot`'s do not.
//!
//! Time stands still, but for waits that end because theirs is over. One of less than [`FOR_EVER`] may end like that at
//! any moment; a longer one never does, so that who relies on it to make up for a lost wake-up is found out. It does not
//! take a call of [`Condvar::notify_one`] from others who wait.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{LazyLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub use shuttle::sync::{atomic, mpsc};
pub use shuttle::thread_local;

/// The shortest time that is never over.
pub const FOR_EVER: Duration = Duration::from_millis(500);

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

std::thread_local! {
    /// All threads of a run are one of the system's.
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// What time it is.
pub fn now() -> Instant {
    *BEGAN + PASSED.get()
}

/// The end of a wait whose time is over.
fn pass(time: Duration) {
    PASSED.set(PASSED.get() + time);
}

/// A lock.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

/// A lock that is held, except within [`unlocked`](Self::unlocked).
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// Around a value.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }
}

impl<T> Mutex<T> {
    /// Waits for it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { lock: self, held: Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    /// If nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = match self.0.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { lock: self, held: Some(held) })
    }

    /// If nobody has it, or whoever has it gives it back in time.
    pub fn try_lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, T>> {
        let left = deadline.saturating_duration_since(now());
        if left >= FOR_EVER {
            return Some(self.lock());
        }
        shuttle::thread::yield_now();
        self.try_lock().or_else(|| {
            pass(left);
            None
        })
    }

    /// Nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> MutexGuard<'_, T> {
    /// Gives it back meanwhile.
    pub fn unlocked<U>(guard: &mut Self, work: impl FnOnce() -> U) -> U {
        guard.held = None;
        let done = work();
        guard.held = guard.lock.lock().held;
        done
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("it is held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("it is held")
    }
}

/// Where those wait who hold a lock.
#[derive(Debug, Default)]
pub struct Condvar {
    sleepers: shuttle::sync::Condvar,
    /// So many calls there were.
    calls: std::sync::atomic::AtomicU64,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether its time was over.
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self { sleepers: shuttle::sync::Condvar::new(), calls: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Waits for a call.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("it is held");
        guard.held = Some(self.sleepers.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits for a call, at most so long.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, at_most: Duration) -> WaitTimeoutResult {
        if at_most >= FOR_EVER {
            self.wait(guard);
            return WaitTimeoutResult(false);
        }
        let calls = || self.calls.load(std::sync::atomic::Ordering::Relaxed);
        let before = calls();
        MutexGuard::unlocked(guard, shuttle::thread::yield_now);
        let timed_out = calls() == before;
        if timed_out {
            pass(at_most);
        }
        WaitTimeoutResult(timed_out)
    }

    /// Waits for a call, at most until then.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> WaitTimeoutResult {
        self.wait_for(guard, deadline.saturating_duration_since(now()))
    }

    /// Wakes one.
    pub fn notify_one(&self) {
        self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.sleepers.notify_one();
    }

    /// Wakes all.
    pub fn notify_all(&self) {
        self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.sleepers.notify_all();
    }
}

/// A lock that many readers have, or one writer.
#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// Around a value.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    /// Waits for writers.
    pub fn read(&self) -> shuttle::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for readers and writers.
    pub fn write(&self) -> shuttle::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value that is made when it is first asked for; others wait for it.
#[derive(Debug, Default)]
pub struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    making: Mutex<()>,
}

impl<T> OnceLock<T> {
    /// Without a value.
    pub const fn new() -> Self {
        Self { value: std::sync::OnceLock::new(), making: Mutex::new(()) }
    }

    /// The value, if there is one.
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// The value, made by `make` if there is none.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if self.value.get().is_none() {
            let _making = self.making.lock();
            if self.value.get().is_none() {
                let _first = self.value.set(make());
            }
        }
        self.value.get().expect("it was made")
    }

    /// Gives it a value.
    ///
    /// # Errors
    /// The value, if it has one.
    pub fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)
    }
}

impl<T: Clone> Clone for OnceLock<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), making: Mutex::new(()) }
    }
}

/// Threads, of which one runs at a time.
pub mod thread {
    use std::io;
    use std::time::Duration;

    pub use shuttle::thread::*;

    use super::{FOR_EVER, pass};

    /// Starts threads with names.
    #[derive(Debug, Default)]
    pub struct Builder(shuttle::thread::Builder);

    impl Builder {
        /// Of a thread without a name.
        pub fn new() -> Self {
            Self(shuttle::thread::Builder::new())
        }

        /// What it is called.
        #[must_use]
        pub fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        /// Starts it.
        ///
        /// # Errors
        /// None: it always starts.
        pub fn spawn<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
            self.0.spawn(work)
        }

        /// Starts it in a scope, without its name.
        ///
        /// # Errors
        /// None: it always starts.
        pub fn spawn_scoped<'scope, T: Send + 'scope>(
            self,
            scope: &'scope Scope<'scope, '_>,
            work: impl FnOnce() -> T + Send + 'scope,
        ) -> io::Result<ScopedJoinHandle<'scope, T>> {
            Ok(scope.spawn(work))
        }
    }

    /// Lets others run; the time is over then.
    pub fn sleep(time: Duration) {
        yield_now();
        pass(time);
    }

    /// Until somebody unparks it, or the time is over.
    pub fn park_timeout(at_most: Duration) {
        if at_most >= FOR_EVER { park() } else { sleep(at_most) }
    }
}
