//! Whether a node should be sent requests, judged from its status alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api::{NodeRole, NodeState, NodeStatus};

/// How far behind a standby may be and still be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagMax {
    /// In the primary's time.
    pub time: Duration,
    /// In bytes of log.
    pub bytes: Option<u64>,
}

/// `GET /readyz`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether to send requests.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

/// A disk that takes longer for one write of the log does not answer: commits wait for it.
const FLUSH_SECONDS_MAX: f64 = 5.0;

/// A node is ready if it does what its role says and, following somebody, is not too far behind.
pub fn readiness(status: &NodeStatus, lag_max: LagMax) -> Readiness {
    let mut reasons = Vec::new();
    let restored = status.role == NodeRole::Restored && status.state == NodeState::ReadOnly;
    if status.state != NodeState::Running && !restored {
        let detail = status.state_detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        reasons.push(format!("the node is {}{detail}", status.state.name().replace('_', "-")));
    }
    let underway = status.log.flush_underway_seconds;
    if underway > FLUSH_SECONDS_MAX {
        reasons.push(format!("the disk has not finished a write of the log for {underway:.1} s"));
    }
    for damage in &status.damages {
        reasons.push(format!("{damage} is damaged and not repaired yet"));
    }
    if let Some(refused) = &status.writes_refused {
        reasons.push(format!("writes stand still: {refused}"));
    }
    if status.role == NodeRole::Standby {
        match &status.upstream {
            None => reasons.push(String::from("the standby follows nobody yet")),
            Some(upstream) => {
                let (lag, time) = (upstream.lag, lag_max.time.as_secs_f64());
                if upstream.feed == "base_backup" {
                    reasons.push(String::from("the standby is being rebuilt from a base backup"));
                }
                if let Some(begin) = upstream.lost_place {
                    let address = &upstream.address;
                    reasons.push(format!("the standby has lost its place: the log of {address} begins at {begin}"));
                }
                if upstream.last_contact_seconds.is_none() {
                    reasons.push(format!("{} has not been heard of yet, so the lag is unknown", upstream.address));
                }
                if lag.seconds > time {
                    reasons.push(format!("{:.1} s behind, at most {time:.1} s are allowed", lag.seconds));
                }
                if let Some(max) = lag_max.bytes.filter(|&max| lag.bytes > max) {
                    reasons.push(format!("{} bytes behind, at most {max} are allowed", lag.bytes));
                }
            }
        }
    }
    Readiness { ready: reasons.is_empty(), reasons }
}

#[cfg(test)]
mod tests {
    use super::super::api::{Lag, UpstreamStatus};
    use super::*;

    const MAX: LagMax = LagMax { time: Duration::from_secs(30), bytes: Some(1000) };

    fn standby(seconds: f64, bytes: u64) -> NodeStatus {
        let upstream = UpstreamStatus {
            address: String::from("db1:7701"),
            lag: Lag { bytes, seconds },
            last_contact_seconds: Some(0.1),
            ..UpstreamStatus::default()
        };
        NodeStatus { role: NodeRole::Standby, upstream: Some(upstream), ..NodeStatus::default() }
    }

    #[test]
    fn a_standby_is_ready_while_its_lag_is_within_both_bounds() {
        assert!(readiness(&standby(30.0, 1000), MAX).ready);
        assert_eq!(readiness(&standby(30.5, 0), MAX).reasons, ["30.5 s behind, at most 30.0 s are allowed"]);
        assert_eq!(readiness(&standby(0.0, 1001), MAX).reasons, ["1001 bytes behind, at most 1000 are allowed"]);
        assert!(readiness(&standby(0.0, 1001), LagMax { bytes: None, ..MAX }).ready);
    }

    #[test]
    fn a_standby_that_never_heard_of_its_upstream_is_not_ready() {
        let mut status = standby(0.0, 0);
        status.upstream.as_mut().unwrap().last_contact_seconds = None;
        assert_eq!(readiness(&status, MAX).reasons, ["db1:7701 has not been heard of yet, so the lag is unknown"]);
        status.upstream = None;
        assert!(!readiness(&status, MAX).ready);
    }

    #[test]
    fn a_standby_that_is_being_rebuilt_is_not_ready_however_small_its_lag() {
        let mut status = standby(0.0, 0);
        status.upstream.as_mut().unwrap().feed = String::from("base_backup");
        assert_eq!(readiness(&status, MAX).reasons, ["the standby is being rebuilt from a base backup"]);
    }

    #[test]
    fn a_standby_that_has_lost_its_place_is_not_ready() {
        let mut status = standby(0.0, 0);
        status.upstream.as_mut().unwrap().lost_place = Some(seawall_wal::Lsn::new(1 << 16).into());
        let said = ["the standby has lost its place: the log of db1:7701 begins at 0/00010000"];
        assert_eq!(readiness(&status, MAX).reasons, said);
    }

    #[test]
    fn a_node_whose_disk_does_not_answer_is_not_ready() {
        let mut status = NodeStatus { role: NodeRole::Primary, state: NodeState::Running, ..NodeStatus::default() };
        status.log.flush_underway_seconds = 4.9;
        assert!(readiness(&status, MAX).ready);
        status.log.flush_underway_seconds = 12.0;
        assert_eq!(readiness(&status, MAX).reasons, ["the disk has not finished a write of the log for 12.0 s"]);
    }

    #[test]
    fn a_node_that_lets_no_write_in_is_not_ready_and_one_whose_background_work_fails_still_is() {
        let mut status = NodeStatus { role: NodeRole::Primary, state: NodeState::Running, ..NodeStatus::default() };
        status.background_failures = vec![String::from("merging tables fails: cannot write /data/tables/x")];
        assert!(readiness(&status, MAX).ready);
        status.writes_refused = Some(String::from("the disk of /data is full"));
        assert_eq!(readiness(&status, MAX).reasons, ["writes stand still: the disk of /data is full"]);
    }

    #[test]
    fn a_node_is_not_ready_from_the_moment_it_knows_of_damage() {
        let damages = vec![String::from("table 17aa (tables/17aa.table)")];
        let status = NodeStatus { state: NodeState::Running, damages, ..NodeStatus::default() };
        let said = ["table 17aa (tables/17aa.table) is damaged and not repaired yet"];
        assert_eq!(readiness(&NodeStatus { role: NodeRole::Primary, ..status }, MAX).reasons, said);
    }

    #[test]
    fn a_node_that_does_not_do_what_its_role_says_is_not_ready() {
        for state in NodeState::ALL {
            let detail = Some(String::from("waiting for the archive"));
            let status = NodeStatus { role: NodeRole::Primary, state, state_detail: detail, ..NodeStatus::default() };
            assert_eq!(readiness(&status, MAX).ready, state == NodeState::Running, "{state:?}");
        }
        let restored = NodeStatus { role: NodeRole::Restored, state: NodeState::ReadOnly, ..NodeStatus::default() };
        assert!(readiness(&restored, MAX).ready, "a restored copy is there to be read");
    }
}
