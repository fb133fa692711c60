//! Every transcript in testdata, by the sentence it proves.

use crate::story::{check, history};

fn keeps(name: &str) {
    let world = check(name);
    assert!(world.judge.violations.is_empty(), "{}", history(&world));
    assert_eq!(world.diverged, 0, "two contents under one log id");
}

macro_rules! stories {
    ($($sentence:ident => $file:literal),* $(,)?) => {
        $(#[test] fn $sentence() { keeps($file); })*

        #[test]
        #[allow(clippy::disallowed_methods)] // looks for transcripts that nobody runs
        fn every_transcript_is_run() {
            let named = [$($file),*];
            for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata")).unwrap() {
                let file = file.unwrap().file_name().into_string().unwrap();
                assert!(named.contains(&file.as_str()) || file.starts_with("bug_"), "{file} has no test");
            }
        }
    };
}

stories! {
    three_fresh_nodes_elect_the_highest_id => "three_fresh_nodes.txt",
    a_killed_leader_is_followed_by_the_next => "leader_killed.txt",
    a_leader_restarted_within_the_fail_time_leaves_nobody_leaderless => "leader_restarted_quickly.txt",
    a_killed_node_returns_muted_and_speaks_when_it_has_caught_up => "killed_node_returns.txt",
    all_killed_and_restarted_start_cold => "all_restarted.txt",
    without_the_chain_nobody_new_leads_and_with_it_somebody_does => "rpc_down.txt",
    without_the_chain_a_leader_that_only_paused_goes_on => "rpc_down_leader_pauses.txt",
    a_leader_that_leaves_is_followed_at_once => "leader_leaves.txt",
    a_process_that_beats_but_does_not_lead_is_gone => "hung_leader.txt",
    a_longer_log_outranks_a_higher_id => "longer_log.txt",
    ballots_with_a_far_deadline_or_a_living_leader_are_refused => "refused_ballots.txt",
    an_old_recording_unmutes_nobody => "old_recording.txt",
    a_single_node_leads_itself => "single_node.txt",
    a_starved_node_accuses_nobody => "starved_node.txt",
    lost_ballots_are_asked_for_again => "lost_ballots.txt",
    an_older_disk_is_repaired_before_it_votes => "older_disk.txt",
    a_leader_cut_off_keeps_no_office => "leader_cut_off.txt",
    a_candidate_that_lost_follows_the_living_leader_again => "lost_candidate.txt",
    a_signer_of_a_lost_election_rests_and_follows_again => "lost_signer.txt",
    a_dead_leader_and_a_restarted_follower_start_cold => "dead_leader_and_restart.txt",
    an_election_forced_at_a_follower_makes_the_highest_id_lead => "election_forced_at_a_follower.txt",
    an_election_forced_where_the_highest_id_leads_confirms_it => "election_forced_highest_already_leads.txt",
    a_call_that_cannot_be_met_is_refused_with_its_reason => "election_refused.txt",
    a_hand_over_whose_candidate_dies_leaves_the_leader_in_office => "hand_over_candidate_dies.txt",
    a_hand_over_whose_transaction_is_lost_heals_by_itself => "hand_over_tx_lost.txt",
    a_hand_over_between_two_of_three_needs_the_leaders_own_ballot => "hand_over_of_two.txt",
    forged_and_old_hand_overs_are_not_believed => "hand_over_forged.txt",
    a_late_joiner_follows_then_is_seated_then_outranks => "late_joiner.txt",
    a_candidate_without_a_majority_is_told_of_when_somebody_comes_back => "no_majority.txt",
    a_late_joiner_without_a_seat_blocks_no_election => "late_joiner_without_seat.txt",
}

/// A transcript leaves repetitions out; the whole trace does not.
#[test]
fn a_candidate_without_a_majority_says_so_once_until_somebody_comes_back() {
    let world = check("no_majority.txt");
    let said = |line: &&String| line.ends_with("1: candidate for term 2");
    let times = world.trace.iter().filter(said).count();
    assert_eq!(times, 2, "{}", history(&world));
}
