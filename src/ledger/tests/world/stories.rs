//! Every transcript in testdata, by the sentence it proves.

use crate::story::check;

macro_rules! stories {
    ($($sentence:ident => $file:literal),* $(,)?) => {
        $(#[test] fn $sentence() { check($file); })*

        #[test]
        #[allow(clippy::disallowed_methods)] // looks for transcripts that nobody runs
        fn every_transcript_is_run() {
            let named = [$($file),*];
            for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata")).unwrap() {
                let file = file.unwrap().file_name().into_string().unwrap();
                assert!(named.contains(&file.as_str()), "{file} has no test");
            }
        }
    };
}

stories! {
    a_sale_moves_credits_once_on_every_node => "sell.txt",
    a_purchase_moves_credits_the_other_way => "buy.txt",
    a_payer_without_credits_refuses_in_public => "refused_buy.txt",
    two_sales_in_one_breath_do_not_overdraw => "two_sales.txt",
    two_buyers_at_once_share_what_is_there => "two_buyers.txt",
    a_lost_request_is_said_again => "lost_request.txt",
    a_lost_answer_is_said_again => "lost_confirm.txt",
    what_is_held_back_is_delivered_in_order => "held_back.txt",
    a_payer_that_restarts_offers_anew => "payer_restarts.txt",
    a_payee_that_restarts_answers_again => "payee_restarts.txt",
    the_next_leader_settles_what_the_last_one_left => "leader_changes.txt",
    a_gap_that_nobody_can_fill_is_closed => "gap_closed.txt",
    a_member_that_joins_answers_what_was_asked_before => "late_joiner.txt",
    what_a_broken_member_says_has_no_effect => "forged.txt",
    a_liar_closes_nobody_but_itself => "liar.txt",
    an_unanswered_offer_expires => "expired.txt",
    doubled_datagrams_count_once => "doubled.txt",
    a_follower_takes_what_nobody_has_as_history => "history.txt",
}
