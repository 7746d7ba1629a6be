//! The disk as its server and the test that holds it share it: one lock, and who waits for what.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::directory::NodeId;
use super::fault::{Effect, Faults, Operation};
use super::tree::{Errno, Tree};

/// How often somebody who waits for the disk to stop looks whether that is still to come.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether the disk answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// It does what it is asked.
    On,
    /// It answers nothing until it is resumed or its power is cut.
    Stopped,
    /// It answers everything with `EIO`.
    Off,
}

pub(super) struct State {
    pub(super) tree: Tree,
    pub(super) faults: Faults,
    power: Power,
    /// How often the power was cut: what was asked before a cut is not done after it.
    cuts: u64,
}

/// Of the server and the test.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn new() -> Self {
        let state = State { tree: Tree::new(), faults: Faults::default(), power: Power::On, cuts: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// For the test, whatever the power.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock())
    }

    pub(super) fn resume(&self) {
        let mut state = self.state.lock();
        if state.power == Power::Stopped {
            state.power = Power::On;
            self.changed.notify_all();
        }
    }

    pub(super) fn cut_power(&self) {
        let mut state = self.state.lock();
        state.power = Power::Off;
        state.cuts += 1;
        self.changed.notify_all();
    }

    pub(super) fn restore_power(&self) {
        self.state.lock().power = Power::On;
    }

    /// Returns whether the disk has stopped; it has not if `is_expected` said that it will not any more.
    pub(super) fn wait_until_stopped(&self, mut is_expected: impl FnMut() -> bool) -> bool {
        let mut state = self.state.lock();
        while state.power != Power::Stopped {
            let (_, expected) = (self.changed.wait_for(&mut state, LOOK_EVERY), is_expected());
            if !expected {
                return state.power == Power::Stopped;
            }
        }
        true
    }

    /// For the server: what is asked without being counted, as long as there is power.
    pub(super) fn look<T>(&self, act: impl FnOnce(&mut Tree) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut state = self.state.lock();
        if state.power == Power::Off { Err(libc::EIO) } else { act(&mut state.tree) }
    }

    /// For the server: an operation on a node.
    pub(super) fn on_node<T>(
        &self,
        operation: Operation,
        node: NodeId,
        act: impl FnOnce(&mut Tree, Option<Effect>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.operate(operation, |tree| tree.path(node).to_owned(), b"", act)
    }

    /// For the server: these bytes are written to a node.
    pub(super) fn on_write<T>(
        &self,
        node: NodeId,
        bytes: &[u8],
        act: impl FnOnce(&mut Tree, Option<Effect>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.operate(Operation::Write, |tree| tree.path(node).to_owned(), bytes, act)
    }

    /// For the server: an operation on a name in a folder.
    pub(super) fn on_name<T>(
        &self,
        operation: Operation,
        folder: NodeId,
        name: &str,
        act: impl FnOnce(&mut Tree) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.operate(operation, |tree| tree.path_in(folder, name), b"", |tree, _| act(tree))
    }

    /// Counts, waits while the disk is stopped, and fails if that is what should happen; else `act` is told of what else
    /// should.
    fn operate<T>(
        &self,
        operation: Operation,
        path: impl FnOnce(&Tree) -> String,
        bytes: &[u8],
        act: impl FnOnce(&mut Tree, Option<Effect>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut state = self.state.lock();
        if state.power == Power::Off {
            return Err(libc::EIO);
        }
        let (cuts, path) = (state.cuts, path(&state.tree));
        let effect = state.faults.meet(operation, &path, bytes);
        if effect == Some(Effect::Stop) {
            state.power = Power::Stopped;
            self.changed.notify_all();
        }
        while state.power == Power::Stopped {
            self.changed.wait(&mut state);
        }
        if state.cuts != cuts {
            return Err(libc::EIO);
        }
        match effect {
            Some(Effect::Fail(errno)) => Err(errno),
            effect => act(&mut state.tree, effect),
        }
    }
}
