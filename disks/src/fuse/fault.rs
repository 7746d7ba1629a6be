//! Which operation of a disk goes wrong, and how: counted, aimed by kind and path. It decides; the server does it.

use super::content::Cached;

/// What programs ask of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Reading from a file.
    Read,
    /// Writing to a file, also with `O_DSYNC`.
    Write,
    /// fsync or fdatasync of a file.
    Sync,
    /// fsync of a folder.
    SyncFolder,
    /// A new file.
    Create,
    /// A new folder.
    CreateFolder,
    /// Giving a file another name.
    Rename,
    /// Giving a file a second name.
    Link,
    /// Taking a name away, of a file or an empty folder.
    Remove,
    /// Cutting or extending a file.
    SetLen,
    /// Opening a file that is there.
    Open,
    /// Listing a folder.
    List,
}

impl Operation {
    /// All, those first that change what is there, or what survives a power loss.
    pub const ALL: [Self; 12] = [
        Self::Write,
        Self::Sync,
        Self::SyncFolder,
        Self::Create,
        Self::CreateFolder,
        Self::Rename,
        Self::Link,
        Self::Remove,
        Self::SetLen,
        Self::Read,
        Self::Open,
        Self::List,
    ];
    /// Those that change something.
    pub const CHANGES: [Self; 9] = *Self::ALL.first_chunk().expect("there are more");
}

/// What happens instead of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails with this error and does nothing.
    Fail(i32),
    /// A read or write moves at most so many bytes, at least one.
    Short(usize),
    /// A sync, or a write that must be durable, fails with this error, and what it should have written will never be.
    Drop(i32, Cached),
    /// A sync, or a write that must be durable, says that it is done, and nothing is durable.
    Pretend,
    /// The disk answers nothing, neither to this operation nor to later ones, until its power is cut or it is resumed.
    Stop,
}

impl Effect {
    fn fits(self, operation: Operation) -> bool {
        match self {
            Self::Fail(_) | Self::Stop => true,
            Self::Short(_) => matches!(operation, Operation::Read | Operation::Write),
            Self::Drop(..) => matches!(operation, Operation::Sync | Operation::Write),
            Self::Pretend => matches!(operation, Operation::Sync | Operation::SyncFolder | Operation::Write),
        }
    }
}

/// The n-th operation of some kinds, on some paths, goes wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The kinds that count.
    pub operations: Vec<Operation>,
    /// Only paths with this in them count. Every path has nothing in it.
    pub path: String,
    /// Only writes with these bytes in them count, if there are any: whatever a file system beneath which this disk lies
    /// writes besides, and in whichever order.
    pub content: Vec<u8>,
    /// Which of those that count from now on, the first being 1.
    pub nth: u64,
    /// Whether all after it go wrong, too.
    pub lasting: bool,
    /// How.
    pub effect: Effect,
}

impl Fault {
    /// The n-th operation of these kinds on any path goes wrong once, the first being 1.
    pub fn at(operations: &[Operation], nth: u64, effect: Effect) -> Self {
        Self { operations: operations.to_vec(), path: String::new(), content: Vec::new(), nth, lasting: false, effect }
    }

    /// Every operation of these kinds goes wrong.
    pub fn always(operations: &[Operation], effect: Effect) -> Self {
        Self { lasting: true, ..Self::at(operations, 1, effect) }
    }
}

/// An operation that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// What was asked.
    pub operation: Operation,
    /// Of which file or folder.
    pub path: String,
}

/// All faults of a disk, and how many operations it met.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Vec<Fault>,
    counts: [u64; Operation::ALL.len()],
    hits: Vec<Hit>,
}

/// Of operations that went wrong so many are remembered, the first ones.
const HITS_MAX: usize = 1_000;

impl Faults {
    pub(super) fn arm(&mut self, fault: Fault) {
        assert!(fault.nth > 0, "the first operation is number 1");
        for operation in &fault.operations {
            assert!(fault.effect.fits(*operation), "{operation:?} cannot go wrong like this: {:?}", fault.effect);
        }
        self.armed.push(fault);
    }

    /// No faults, and nothing counted.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn count(&self, operation: Operation) -> u64 {
        self.counts[operation as usize]
    }

    pub(super) fn hits(&self) -> &[Hit] {
        &self.hits
    }

    /// Counts an operation, of these bytes if it is a write; how it goes wrong if it does. Of several faults the first one
    /// armed is met.
    pub(super) fn meet(&mut self, operation: Operation, path: &str, bytes: &[u8]) -> Option<Effect> {
        self.counts[operation as usize] += 1;
        let mut met = None;
        for fault in &mut self.armed {
            if !fault.operations.contains(&operation) || !path.contains(&fault.path) || !has(bytes, &fault.content) {
                continue;
            }
            match fault.nth {
                0 if !fault.lasting => {}
                0 | 1 => {
                    fault.nth = 0;
                    met = met.or(Some(fault.effect));
                }
                _ => fault.nth -= 1,
            }
        }
        if met.is_some() && self.hits.len() < HITS_MAX {
            self.hits.push(Hit { operation, path: path.to_owned() });
        }
        met
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_operation_of_a_kind_on_a_path_goes_wrong_once_or_from_then_on() {
        let mut faults = Faults::default();
        let fail = Effect::Fail(libc::EIO);
        faults.arm(Fault { path: "wal/".into(), ..Fault::at(&[Operation::Sync], 2, fail) });
        let sync = |faults: &mut Faults, path| faults.meet(Operation::Sync, path, b"");
        assert_eq!(sync(&mut faults, "data/wal/1"), None);
        assert_eq!(sync(&mut faults, "data/tables/1"), None);
        assert_eq!(faults.meet(Operation::Write, "data/wal/1", b"bytes"), None);
        assert_eq!(sync(&mut faults, "data/wal/2"), Some(fail));
        assert_eq!(sync(&mut faults, "data/wal/2"), None);
        assert_eq!(faults.hits(), [Hit { operation: Operation::Sync, path: "data/wal/2".into() }]);
        assert_eq!((faults.count(Operation::Sync), faults.count(Operation::Write)), (4, 1));

        faults.clear();
        faults.arm(Fault::always(&Operation::CHANGES, Effect::Fail(libc::EROFS)));
        for operation in Operation::ALL {
            let changes = Operation::CHANGES.contains(&operation);
            assert_eq!(faults.meet(operation, "any", b"").is_some(), changes, "{operation:?}");
        }
    }

    #[test]
    fn a_fault_that_is_aimed_at_bytes_is_met_by_writes_of_them_only() {
        let mut faults = Faults::default();
        let fail = Effect::Fail(libc::EIO);
        faults.arm(Fault { content: b"needle".to_vec(), ..Fault::at(&[Operation::Write], 2, fail) });
        let mut write = |bytes| faults.meet(Operation::Write, "image", bytes);
        assert_eq!(write(b"a needle in hay"), None);
        assert_eq!([write(b"hay"), write(b"need"), write(b"")], [None; 3]);
        assert_eq!(write(b"the needle"), Some(fail));
        assert_eq!(write(b"needle"), None);
    }

    #[test]
    fn every_operation_has_a_count_of_its_own() {
        let mut faults = Faults::default();
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert!((0..=number).all(|_| faults.meet(operation, "", b"").is_none()));
        }
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(faults.count(operation), number as u64 + 1, "{operation:?}");
        }
    }
}
