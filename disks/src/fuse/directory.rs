//! The names in one folder: those a power loss leaves, and what was changed since the last sync. It knows no files, only
//! their numbers.

use std::collections::BTreeMap;

use super::loss::Survivors;

/// The number of a file or folder.
pub(super) type NodeId = u64;

/// One change of a folder, which happens or does not happen as a whole.
#[derive(Clone, Debug)]
enum Change {
    Add { name: String, node: NodeId },
    Remove { name: String },
    Rename { from: String, to: String, node: NodeId },
}

/// The names in one folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    durable: BTreeMap<String, NodeId>,
    shown: BTreeMap<String, NodeId>,
    unsynced: Vec<Change>,
}

impl Directory {
    pub(super) fn get(&self, name: &str) -> Option<NodeId> {
        self.shown.get(name).copied()
    }

    /// Sorted by name.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, NodeId)> {
        self.shown.iter().map(|(name, node)| (name.as_str(), *node))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Every node that has a name here, or may have one again after a power loss.
    pub(super) fn referred(&self) -> impl Iterator<Item = NodeId> {
        let unsynced = self.unsynced.iter().filter_map(|change| match change {
            Change::Add { node, .. } | Change::Rename { node, .. } => Some(*node),
            Change::Remove { .. } => None,
        });
        self.durable.values().chain(self.shown.values()).copied().chain(unsynced)
    }

    pub(super) fn add(&mut self, name: &str, node: NodeId) {
        self.change(Change::Add { name: name.to_owned(), node });
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.change(Change::Remove { name: name.to_owned() });
    }

    /// What `to` named loses that name.
    pub(super) fn rename(&mut self, from: &str, to: &str, node: NodeId) {
        self.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), node });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.shown);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        self.durable.clone_from(&self.shown);
        self.unsynced.clear();
    }

    /// Of how many changes a power loss decides whether they survive.
    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Changes survive each for itself: a name may be given by a rename though the creation before it did not survive.
    pub(super) fn lose_power(&mut self, survivors: &mut Survivors) {
        for change in std::mem::take(&mut self.unsynced) {
            if survivors.pick(1) == 1 {
                change.apply(&mut self.durable);
            }
        }
        self.shown.clone_from(&self.durable);
    }

    /// Gives nodes other numbers. There is nothing unsynced.
    pub(super) fn renumber(&mut self, number: impl Fn(NodeId) -> NodeId) {
        assert!(self.unsynced.is_empty(), "it follows a power loss");
        self.durable.values_mut().for_each(|node| *node = number(*node));
        self.shown.clone_from(&self.durable);
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, NodeId>) {
        match self {
            Self::Add { name, node } => {
                names.insert(name.clone(), *node);
            }
            Self::Remove { name } => {
                names.remove(name);
            }
            Self::Rename { from, to, node } => {
                // If the name was given to another one meanwhile, that one keeps it.
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fuse::PowerLoss;

    fn after(directory: &Directory, loss: PowerLoss) -> String {
        let mut directory = directory.clone();
        directory.lose_power(&mut Survivors::of(loss));
        directory.names().map(|(name, node)| format!("{name}={node} ")).collect::<String>().trim_end().to_owned()
    }

    #[test]
    fn names_survive_a_power_loss_when_the_folder_was_synced() {
        let mut directory = Directory::default();
        directory.add("a", 1);
        directory.add("b", 2);
        directory.sync();
        directory.remove("a");
        directory.add("c", 3);
        directory.rename("c", "b", 3);
        assert_eq!(directory.names().collect::<Vec<_>>(), [("b", 3)]);
        assert_eq!(after(&directory, PowerLoss::NothingKept), "a=1 b=2");
        assert_eq!(after(&directory, PowerLoss::EverythingKept), "b=3");
        let seen: BTreeSet<String> = (0..300).map(|seed| after(&directory, PowerLoss::Random(seed))).collect();
        let all = ["a=1 b=2", "b=2", "a=1 b=2 c=3", "b=2 c=3", "a=1 b=3", "b=3"];
        assert_eq!(seen, BTreeSet::from(all.map(str::to_owned)));
        directory.sync();
        assert_eq!(after(&directory, PowerLoss::NothingKept), "b=3");
    }

    #[test]
    fn a_file_without_a_name_is_referred_to_as_long_as_it_may_come_back() {
        let mut directory = Directory::default();
        directory.add("a", 1);
        directory.sync();
        directory.remove("a");
        assert_eq!(directory.referred().collect::<Vec<_>>(), [1]);
        directory.sync();
        assert_eq!(directory.referred().count(), 0);
    }
}
