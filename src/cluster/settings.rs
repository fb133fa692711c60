//! Timing of the detector and of elections. No timeout decides safety; they only decide how often we
//! elect, so short ones are safe.

/// All in milliseconds unless the name says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Between two heartbeats.
    pub heartbeat_ms: u64,
    /// Silence until SUSPECTED.
    pub suspect_ms: u64,
    /// Silence until FAILED.
    pub fail_ms: u64,
    /// Wait for OK after ELECTION; COORDINATOR after twice that.
    pub ok_wait_ms: u64,
    /// Wait for a quorum of ballots.
    pub gather_ms: u64,
    /// Wait for our own `elect` transaction.
    pub submit_ms: u64,
    /// A new leader's time from the contract's word to its first append.
    pub office_grace_ms: u64,
    /// No unmuted majority for this long: the cluster starts cold.
    pub cold_start_wait_ms: u64,
    /// Between two elections that people force; at least twice the wait for OK and ballots.
    pub call_interval_ms: u64,
    /// Between two JOINs of a muted node.
    pub join_ms: u64,
    /// JOINs at boot, whatever the answers.
    pub join_copies: u32,
    /// Between two looks at what should be done.
    pub act_ms: u64,
    /// Ballots run out this many seconds of block time after the newest block known; at most 60.
    pub ballot_ttl_s: u64,
}

impl Settings {
    /// For one machine or one network segment: detection in 0.8 s.
    pub fn lan() -> Self {
        Self {
            heartbeat_ms: 100,
            suspect_ms: 400,
            fail_ms: 800,
            ok_wait_ms: 200,
            gather_ms: 1_000,
            submit_ms: 5_000,
            office_grace_ms: 2_500,
            cold_start_wait_ms: 2_000,
            call_interval_ms: 5_000,
            join_ms: 300,
            join_copies: 3,
            act_ms: 20,
            ballot_ttl_s: 15,
        }
    }

    /// The prototype's own figures: 2 s, 10 s, 20 s, 5 s.
    pub fn seed() -> Self {
        Self {
            heartbeat_ms: 2_000,
            suspect_ms: 10_000,
            fail_ms: 20_000,
            ok_wait_ms: 5_000,
            gather_ms: 10_000,
            submit_ms: 30_000,
            office_grace_ms: 30_000,
            cold_start_wait_ms: 30_000,
            call_interval_ms: 30_000,
            join_ms: 3_000,
            ballot_ttl_s: 60,
            ..Self::lan()
        }
    }

    /// Every contradiction, not only the first.
    pub fn faults(&self) -> Vec<SettingsFault> {
        let mut faults = Vec::new();
        let mut need = |holds: bool, rule: &'static str, found: String| {
            if !holds {
                faults.push(SettingsFault { rule, found });
            }
        };
        let Self {
            heartbeat_ms,
            suspect_ms,
            fail_ms,
            ..
        } = *self;
        need(
            heartbeat_ms >= 10,
            "the heartbeat interval is at least 0.01 s",
            format!("{heartbeat_ms} ms"),
        );
        need(
            suspect_ms >= 2 * heartbeat_ms,
            "the heartbeat timeout is at least twice the interval",
            format!("timeout {suspect_ms} ms, interval {heartbeat_ms} ms"),
        );
        need(
            fail_ms > suspect_ms,
            "FAILED comes after SUSPECTED",
            format!("{fail_ms} ms, {suspect_ms} ms"),
        );
        need(
            self.ok_wait_ms >= 10,
            "the election timeout is at least 0.01 s",
            format!("{} ms", self.ok_wait_ms),
        );
        need(
            (1..=60).contains(&self.ballot_ttl_s),
            "ballots run 1 to 60 s",
            format!("{} s", self.ballot_ttl_s),
        );
        faults
    }
}

/// Two settings that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFault {
    /// What must hold.
    pub rule: &'static str,
    /// What was found.
    pub found: String,
}
