//! What a node is doing, in a word and in words, and which news change that.

/// What a node is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not there yet, or its database is not: the words say what is waited for.
    #[default]
    Starting,
    /// What its role says.
    Running,
    /// Reads only, for a reason that is given.
    ReadOnly,
    /// Another node took over; nothing is written any more.
    Fenced,
    /// On its way down.
    Draining,
    /// An error ended it.
    Failed,
}

impl State {
    /// A fenced or failed node stays so, and one on its way down goes on down. That it is fenced, or fails in another way as
    /// well, is said of a failed one: the repair of damage ends only the failure that damage was.
    const fn gives_way_to(self, news: Self) -> bool {
        match (self, news) {
            (_, Self::Draining | Self::Fenced) | (Self::Failed | Self::Draining, Self::Failed) => true,
            (Self::Fenced | Self::Failed | Self::Draining, _) => false,
            (Self::Starting | Self::Running | Self::ReadOnly, _) => true,
        }
    }
}

/// What a node is doing, and more about that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) state: State,
    pub(super) words: String,
}

impl Condition {
    /// Something happened to the node. What matters more is not forgotten for it.
    pub(super) fn hear(&mut self, state: State, words: &str) {
        if self.state.gives_way_to(state) {
            *self = Self { state, words: words.to_owned() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left after all of these.
    fn after(news: &[(State, &str)]) -> (State, String) {
        let mut condition = Condition::default();
        news.iter().for_each(|(state, words)| condition.hear(*state, words));
        (condition.state, condition.words)
    }

    #[test]
    fn the_newest_failure_is_what_a_failed_node_says_and_nothing_good_replaces_it() {
        let damaged = (State::Failed, "segment 3 is damaged");
        let ended = (State::Failed, "the log has ended");
        assert_eq!(after(&[damaged, ended]), (State::Failed, "the log has ended".to_owned()));
        for news in [State::Starting, State::Running, State::ReadOnly] {
            assert_eq!(after(&[damaged, (news, "")]), (State::Failed, "segment 3 is damaged".to_owned()), "{news:?}");
        }
    }

    #[test]
    fn a_fenced_node_stays_fenced_and_a_failed_one_says_that_it_was_fenced() {
        let fenced = (State::Fenced, "timeline 2 took over");
        let failed = (State::Failed, "nothing can be archived");
        let stays = (State::Fenced, "timeline 2 took over".to_owned());
        for news in [State::Starting, State::Running, State::ReadOnly, State::Failed] {
            assert_eq!(after(&[fenced, (news, "later")]), stays, "{news:?}");
        }
        assert_eq!(after(&[failed, fenced]), stays);
        assert_eq!(after(&[failed, fenced, failed]), stays);
    }

    #[test]
    fn a_node_on_its_way_down_does_not_run_again() {
        for ended in [State::Running, State::Fenced, State::Failed] {
            let down = [(ended, ""), (State::Draining, ""), (State::Running, "it streams")];
            assert_eq!(after(&down).0, State::Draining, "{ended:?}");
        }
        assert_eq!(after(&[(State::Draining, ""), (State::Failed, "the log has ended")]).0, State::Failed);
    }
}
