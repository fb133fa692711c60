//! The lines that users of the prototype watch for, each behind `Node N: `; where we know more (a term, a message's
//! number) it stands behind the prototype's words. Ours stand beside them.

use synod_cluster::{CallRefusal, Notice};
use synod_ledger::{Decision, News, TradeRecord};
use synod_wire::trade::{Reply, Side};
use synod_wire::{Offer, Token, Wh};

/// How loud a line is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loudness {
    /// Something is wrong.
    Warn,
    /// Worth knowing.
    Info,
    /// In the log file only.
    Debug,
}

/// What a notice of the cluster says; `leader` is whom the highest term names.
pub fn of_cluster(leader: Option<Token>, notice: &Notice) -> (Loudness, String) {
    use Loudness::{Info, Warn};
    match notice {
        Notice::Suspected(token) => (
            Warn,
            format!("Node {token} SUSPECTED (missed heartbeat timeout)"),
        ),
        Notice::Failed(token) => (
            Warn,
            format!("Node {token} FAILED (sustained heartbeat absence)"),
        ),
        Notice::Alive(token) => (Info, format!("Node {token} ALIVE")),
        Notice::Left(token) => (Info, format!("Node {token} LEFT")),
        Notice::LeaderGone(term) if leader.is_some() => (
            Warn,
            format!("LEADER FAILED - triggering election for term {term}"),
        ),
        Notice::LeaderGone(term) => (
            Info,
            format!("the office is vacant - triggering election for term {term}"),
        ),
        Notice::Candidate(term) => (
            Info,
            format!("No higher-priority nodes, declaring self as coordinator for term {term}"),
        ),
        Notice::Leading(term) => (Info, format!("COORDINATOR for term {term}")),
        Notice::Unmuted(term) => (
            Info,
            format!("caught up with term {term}: votes, signs and answers again"),
        ),
        Notice::Synchronized { leader, members } => {
            let known: Vec<u64> = members.iter().map(|token| token.0).collect();
            let text = format!("State synchronized - coordinator={leader}, known_nodes={known:?}");
            (Info, text)
        }
        Notice::ElectionCalled(term) => (Info, format!("Election called for term {term}")),
        Notice::CallRefused(why) => (Warn, format!("No election: {}", refusal(*why))),
        Notice::HandsOver { term, to } => (
            Info,
            format!("handing over to Node {to} - election for term {term}"),
        ),
        Notice::ColdStart(term) => (
            Warn,
            format!("no unmuted majority is left: voting by disk for term {term} (cold start)"),
        ),
        Notice::NoLog(term) => (
            Warn,
            format!(
                "elected for term {term} after a restart with an empty disk: the log is lost or was never born; \
                 restart a node that still holds it"
            ),
        ),
    }
}

fn refusal(why: CallRefusal) -> &'static str {
    match why {
        CallRefusal::Muted => "this node is muted after its restart",
        CallRefusal::NotAVoter => "only seated members with a live registration may call one",
        CallRefusal::TooSoon => {
            "one was held a moment ago, or is under way; try again in some seconds"
        }
        CallRefusal::ChainSilent => "the chain cannot be read, so none could end",
        CallRefusal::NoAnswer => {
            "the leader did not hand over in time; it hears each member once in a while, try again or ask at another node"
        }
    }
}

/// What the ledger tells; none = nothing for people.
pub fn of_ledger(me: Token, news: &News) -> Option<(Loudness, String)> {
    use Loudness::{Debug, Info, Warn};
    Some(match news {
        News::Offered { offer, .. } => (
            Debug,
            format!(
                "TRADE_REQUEST {}: {} {} credits, node {}",
                offer.id,
                offer.side.name(),
                offer.amount,
                offer.with
            ),
        ),
        News::Declined { why, .. } => (Debug, format!("a wish was declined: {why}")),
        News::Heard(offer) => (Debug, format!("TRADE_REQUEST {} delivered", offer.id)),
        News::Answered(offer, Reply::Accepted) => (
            Debug,
            format!("TRADE_CONFIRM {} delivered: accepted", offer.id),
        ),
        News::Answered(offer, Reply::Refused(why)) => (
            Debug,
            format!("TRADE_CONFIRM {} delivered: {}", offer.id, why.reason()),
        ),
        News::Decided { record, .. } => decided(me, record),
        News::OfferedAnew { void, offer } => (
            Info,
            format!(
                "trade {void} ended with its session: offered again as {}",
                offer.id
            ),
        ),
        News::HeldBack { from, sequence } => (
            Info,
            format!("Buffering message for causal delivery ({from}:{sequence})"),
        ),
        News::Refused { from, why } => (Warn, format!("refused a message of node {from}: {why}")),
    })
}

fn decided(me: Token, record: &TradeRecord) -> (Loudness, String) {
    let offer = &record.offer;
    match record.decision {
        Decision::Settled if offer.payer() == me => {
            let before = Wh(record.payer_after.0.saturating_add(offer.amount.0));
            (
                Loudness::Info,
                format!(
                    "SELL {} credits to Node {} [{before} -> {}]",
                    offer.amount,
                    offer.payee(),
                    record.payer_after
                ),
            )
        }
        Decision::Settled => {
            let before = Wh(record.payee_after.0.saturating_sub(offer.amount.0));
            (
                Loudness::Info,
                format!(
                    "BUY {} credits from Node {} [{before} -> {}]",
                    offer.amount,
                    offer.payer(),
                    record.payee_after
                ),
            )
        }
        Decision::Refused(why) => (
            Loudness::Warn,
            format!("trade {} refused: {}", undecided(me, offer), why.reason()),
        ),
        Decision::Expired => (
            Loudness::Warn,
            format!(
                "trade {} expired: nobody confirmed it in time",
                undecided(me, offer)
            ),
        ),
    }
}

/// What its owner hears at once of an offer to somebody silent; the log's word comes later.
pub fn waits(me: Token, offer: &Offer, now_unix_ms: u64) -> (Loudness, String) {
    let left_s = offer.expires_ms.saturating_sub(now_unix_ms).div_ceil(1_000);
    let text = format!(
        "trade {} waits: Node {} does not answer; the offer lives until {} UTC ({left_s} s)",
        undecided(me, offer),
        offer.with,
        time_of_day(offer.expires_ms)
    );
    (Loudness::Warn, text)
}

/// `HH:MM:SS`, UTC.
fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000 % 86_400;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// As its owner typed it: `1-1-3 (sell 30 to Node 2)`.
fn undecided(me: Token, offer: &Offer) -> String {
    let (id, amount) = (offer.id, offer.amount);
    if offer.id.proposer != me {
        return format!("{id} of Node {}", offer.id.proposer);
    }
    match offer.side {
        Side::Sell => format!("{id} (sell {amount} to Node {})", offer.with),
        Side::Buy => format!("{id} (buy {amount} from Node {})", offer.with),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::{Incarnation, TradeId};

    #[test]
    fn an_offer_to_somebody_silent_says_for_whom_it_waits_and_until_when() {
        let id = TradeId {
            proposer: Token(1),
            incarnation: Incarnation(1),
            sequence: 3,
        };
        let offer = Offer {
            id,
            side: Side::Sell,
            with: Token(2),
            amount: Wh(2_500),
            // 2026-11-21 23:59:59
            expires_ms: 1_795_305_599_000,
        };
        assert_eq!(
            waits(Token(1), &offer, 1_795_305_569_500).1,
            "trade 1-1-3 (sell 2.5 to Node 2) waits: Node 2 does not answer; the offer lives until 23:59:59 UTC (30 s)"
        );
    }
}
