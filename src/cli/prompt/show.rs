//! Answers in the prototype's shapes, character by character; scripts and eyes know them. Amounts are printed from
//! whole watt-hours, never from the floating point beside them.

use std::collections::VecDeque;
use std::fmt::Write;
use synod_node::http::types::{
    Balances, ClockView, Member, Members, Status, Trade, TradeStatus, TradesPage,
};
use synod_wire::Wh;

const BANNER_WIDTH: usize = 50;
const STATUS_WIDTH: usize = 40;
/// Newest trades that `history` lists.
const NEWEST_MAX: usize = 5;

/// What a prompt begins with. What the node's evidence is worth stands in it as soon as it is known.
pub(crate) fn banner(node: u64, attestation: &str) -> String {
    let line = "=".repeat(BANNER_WIDTH);
    let worth = if attestation.is_empty() {
        String::new()
    } else {
        format!("\n  {attestation}")
    };
    format!("{line}\n  ENERGY TRADING NODE {node}{worth}\n  Type 'help' for commands\n{line}")
}

/// The words, one a line.
pub(crate) fn help(several: bool) -> String {
    const WORDS: &[(&str, &str)] = &[
        ("help", "Show this list"),
        (
            "status",
            "Show role, coordinator, balance, active nodes and clock",
        ),
        ("balance", "Show the balance of this node"),
        ("sell", "Sell credits: sell <node_id> <amount>"),
        ("buy", "Buy credits: buy <node_id> <amount>"),
        ("nodes", "List the known nodes"),
        ("history", "Show the trades of this node"),
        ("election", "Force an election"),
        ("quit", "Leave the cluster and exit"),
    ];
    const OF_SEVERAL: &[(&str, &str)] = &[
        ("use", "Talk to another node: use <node_id>"),
        ("kill", "Kill a node (kill -9): kill <node_id>"),
        ("start", "Start a node that does not run: start <node_id>"),
    ];
    let more = if several { OF_SEVERAL } else { &[] };
    let mut text = "Available Commands:".to_owned();
    for (name, what) in WORDS.iter().chain(more) {
        line(&mut text, &format!("  {name:<10} - {what}"));
    }
    text
}

/// What `status` shows; balance and clock are missing while the node is muted, with the reason.
pub(crate) struct StatusBlock<'a> {
    pub node: u64,
    pub status: &'a Status,
    pub members: &'a Members,
    pub balances: Result<&'a Balances, &'a str>,
    pub clock: Result<&'a ClockView, &'a str>,
}

/// The block of `status`.
pub(crate) fn status(block: &StatusBlock<'_>) -> String {
    let ruler = "=".repeat(STATUS_WIDTH);
    let StatusBlock { node, status, .. } = block;
    let role = if status.is_leader {
        "COORDINATOR"
    } else {
        "FOLLOWER"
    };
    let coordinator = match status.leader_token {
        Some(leader) if failed(block.members, leader) => format!("none (Node {leader} failed)"),
        Some(leader) => format!("Node {leader}"),
        None => "none".to_owned(),
    };
    let unknown = |why: &str| format!("unknown ({why})");
    let balance = match block.balances {
        Ok(balances) => format!("{} credits", Wh(balances.balance_wh)),
        Err(why) => unknown(why),
    };
    let (clock, buffered) = match block.clock {
        Ok(clock) => (vector(clock), clock.buffered.to_string()),
        Err(why) => (unknown(why), unknown(why)),
    };
    let mut text = format!("{ruler}\n  NODE STATUS - Node {node}\n{ruler}");
    line(&mut text, &format!("  Role: {role}"));
    line(&mut text, &format!("  Coordinator: {coordinator}"));
    line(&mut text, &format!("  Balance: {balance}"));
    let active = active(block.members);
    line(&mut text, &format!("  Active Nodes: {active:?}"));
    line(&mut text, &format!("  Vector Clock: {clock}"));
    line(&mut text, &format!("  Buffered Messages: {buffered}"));
    // ours, and only while something is wrong: the prototype's block has six lines
    if status.phase != "serving" || coordinator.starts_with("none") {
        let (phase, why) = (status.phase.replace('_', " "), &status.summary);
        line(&mut text, &format!("  Phase: {phase} ({why})"));
    }
    line(&mut text, &ruler);
    text
}

fn failed(members: &Members, token: u64) -> bool {
    let found = members.members.iter().find(|m| m.token_id == token);
    found.is_none_or(|m| m.state == "FAILED")
}

/// `[1:4, 2:7]`.
fn vector(clock: &ClockView) -> String {
    let entries: Vec<String> = clock
        .clock
        .iter()
        .map(|(token, sequence)| format!("{token}:{sequence}"))
        .collect();
    format!("[{}]", entries.join(", "))
}

/// Who is heard; a suspected node counts until it has failed, as in the prototype.
fn active(members: &Members) -> Vec<u64> {
    let heard = |m: &&Member| ["SELF", "ALIVE", "SUSPECTED"].contains(&m.state.as_str());
    members
        .members
        .iter()
        .filter(heard)
        .map(|m| m.token_id)
        .collect()
}

/// The line of `balance`.
pub(crate) fn balance(balances: &Balances) -> String {
    format!("Balance: {} credits", Wh(balances.balance_wh))
}

/// The list of `nodes`, as this node sees them; `killed` are those that this prompt's own hands have stopped.
pub(crate) fn nodes(members: &Members, killed: &[u64]) -> String {
    let mut text = "Known Nodes:".to_owned();
    for member in &members.members {
        let state = member.state.to_lowercase();
        let known = match state.as_str() {
            "self" | "alive" => "active",
            other => other,
        };
        let words = [
            (state == "self").then_some("self"),
            member.is_leader.then_some("coordinator"),
            Some(known),
            killed.contains(&member.token_id).then_some("killed"),
        ];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        let (node, words) = (member.token_id, words.join(", "));
        line(&mut text, &format!("  Node {node} ({words})"));
    }
    text
}

/// The trades of one node, gathered page by page.
#[derive(Debug, Default)]
pub(crate) struct History {
    node: u64,
    completed: u64,
    pending: usize,
    newest: VecDeque<Trade>,
}

impl History {
    pub(crate) fn of(node: u64) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// The next page, oldest first; undecided trades are in each.
    pub(crate) fn take(&mut self, page: TradesPage) {
        let node = self.node;
        let ours = |trade: &&Trade| trade.payer == node || trade.payee == node;
        self.pending = page.open.iter().filter(ours).count();
        for trade in page.trades {
            if trade.status != TradeStatus::Settled || !ours(&&trade) {
                continue;
            }
            self.completed += 1;
            self.newest.push_back(trade);
            if self.newest.len() > NEWEST_MAX {
                self.newest.pop_front();
            }
        }
    }
}

/// The answer to `history`; the newest trade is the last line.
pub(crate) fn history(balances: &Balances, history: &History) -> String {
    let History {
        node,
        completed,
        pending,
        newest,
    } = history;
    let mut text = format!("ENERGY LEDGER - Node {node}");
    let balance = Wh(balances.balance_wh);
    line(&mut text, &format!("  Energy Balance: {balance} credits"));
    line(&mut text, &format!("  Completed Trades: {completed}"));
    line(&mut text, &format!("  Pending Trades: {pending}"));
    for trade in newest {
        let amount = Wh(trade.amount_wh);
        let told = if trade.payer == *node {
            format!("    SELL {amount} credits to Node {}", trade.payee)
        } else {
            format!("    BUY {amount} credits from Node {}", trade.payer)
        };
        line(&mut text, &told);
    }
    text
}

fn line(text: &mut String, line: &str) {
    // writing to a String cannot fail
    let _ = write!(text, "\n{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(token_id: u64, state: &str, is_leader: bool) -> Member {
        Member {
            token_id,
            state: state.to_owned(),
            is_leader,
            ..Member::default()
        }
    }

    fn members() -> Members {
        Members {
            members: vec![
                member(1, "SELF", false),
                member(2, "SUSPECTED", false),
                member(3, "ALIVE", true),
                member(4, "FAILED", false),
                member(5, "UNKNOWN", false),
            ],
            ..Members::default()
        }
    }

    fn balances(wh: u64) -> Balances {
        Balances {
            balance_wh: wh,
            ..Balances::default()
        }
    }

    /// `payer` pays `payee`: the payer gives its energy away, so it is the one that sells.
    fn trade(payer: u64, payee: u64, wh: u64, status: TradeStatus) -> Trade {
        Trade {
            payer,
            payee,
            amount_wh: wh,
            status,
            ..Trade::default()
        }
    }

    #[test]
    fn the_banner_says_what_the_evidence_is_worth() {
        assert_eq!(
            banner(1, ""),
            "==================================================\n  ENERGY TRADING NODE 1\n  Type 'help' for \
             commands\n=================================================="
        );
        assert_eq!(
            banner(12, "SIMULATED under root 01ab…: consistent"),
            "==================================================\n  ENERGY TRADING NODE 12\n  SIMULATED under root \
             01ab…: consistent\n  Type 'help' for commands\n=================================================="
        );
    }

    #[test]
    fn help_lists_every_word_and_those_of_several_nodes_only_where_there_are_some() {
        let alone = "\
Available Commands:
  help       - Show this list
  status     - Show role, coordinator, balance, active nodes and clock
  balance    - Show the balance of this node
  sell       - Sell credits: sell <node_id> <amount>
  buy        - Buy credits: buy <node_id> <amount>
  nodes      - List the known nodes
  history    - Show the trades of this node
  election   - Force an election
  quit       - Leave the cluster and exit";
        assert_eq!(help(false), alone);
        let several = "
  use        - Talk to another node: use <node_id>
  kill       - Kill a node (kill -9): kill <node_id>
  start      - Start a node that does not run: start <node_id>";
        assert_eq!(help(true), format!("{alone}{several}"));
    }

    #[test]
    fn the_status_block_is_the_prototypes() {
        let clock = ClockView {
            clock: [(1, 4), (2, 7)].into(),
            buffered: 2,
            ..ClockView::default()
        };
        let mut status = Status {
            is_leader: false,
            leader_token: Some(3),
            phase: "serving".to_owned(),
            ..Status::default()
        };
        let shown = |status: &Status, readable: bool| {
            let balances = balances(77_500);
            super::status(&StatusBlock {
                node: 1,
                status,
                members: &members(),
                balances: if readable {
                    Ok(&balances)
                } else {
                    Err("muted")
                },
                clock: if readable { Ok(&clock) } else { Err("muted") },
            })
        };
        let block = "\
========================================
  NODE STATUS - Node 1
========================================
  Role: FOLLOWER
  Coordinator: Node 3
  Balance: 77.5 credits
  Active Nodes: [1, 2, 3]
  Vector Clock: [1:4, 2:7]
  Buffered Messages: 2
========================================";
        assert_eq!(shown(&status, true), block);
        status.is_leader = true;
        status.leader_token = Some(1);
        let leading = block
            .replace("FOLLOWER", "COORDINATOR")
            .replace("Coordinator: Node 3", "Coordinator: Node 1");
        assert_eq!(shown(&status, true), leading);
        status.is_leader = false;
        status.leader_token = None;
        status.phase = "waiting_for_gas".to_owned();
        status.summary = "needs ether".to_owned();
        let lost = "\
========================================
  NODE STATUS - Node 1
========================================
  Role: FOLLOWER
  Coordinator: none
  Balance: unknown (muted)
  Active Nodes: [1, 2, 3]
  Vector Clock: unknown (muted)
  Buffered Messages: unknown (muted)
  Phase: waiting for gas (needs ether)
========================================";
        assert_eq!(shown(&status, false), lost);
    }

    #[test]
    fn balance_and_nodes_are_the_prototypes() {
        assert_eq!(balance(&balances(100_000)), "Balance: 100 credits");
        assert_eq!(balance(&balances(1)), "Balance: 0.001 credits");
        let list = "\
Known Nodes:
  Node 1 (self, active)
  Node 2 (suspected)
  Node 3 (coordinator, active)
  Node 4 (failed, killed)
  Node 5 (unknown)";
        assert_eq!(nodes(&members(), &[4]), list);
    }

    #[test]
    fn history_shows_each_side_its_own_view() {
        use TradeStatus::{Expired, Open, Refused, Settled};
        let page = TradesPage {
            trades: vec![
                trade(1, 2, 30_000, Settled),
                trade(3, 1, 2_500, Settled),
                trade(1, 2, 999_000, Refused),
                trade(2, 3, 7_000, Settled),
                trade(1, 3, 5_000, Expired),
            ],
            open: vec![trade(2, 1, 1_000, Open), trade(2, 3, 1_000, Open)],
            ..TradesPage::default()
        };
        let told = |node: u64, wh: u64| {
            let mut history = History::of(node);
            history.take(page.clone());
            super::history(&balances(wh), &history)
        };
        let first = "\
ENERGY LEDGER - Node 1
  Energy Balance: 72.5 credits
  Completed Trades: 2
  Pending Trades: 1
    SELL 30 credits to Node 2
    BUY 2.5 credits from Node 3";
        assert_eq!(told(1, 72_500), first);
        let second = "\
ENERGY LEDGER - Node 2
  Energy Balance: 123 credits
  Completed Trades: 2
  Pending Trades: 2
    BUY 30 credits from Node 1
    SELL 7 credits to Node 3";
        assert_eq!(told(2, 123_000), second);
    }

    #[test]
    fn history_keeps_the_five_newest_of_many_pages_and_counts_all() {
        let mut history = History::of(1);
        for page in 0..3 {
            let trades = (1..=4)
                .map(|n| trade(1, 2, (page * 4 + n) * 1_000, TradeStatus::Settled))
                .collect();
            history.take(TradesPage {
                trades,
                ..TradesPage::default()
            });
        }
        let text = super::history(&balances(0), &history);
        assert!(text.contains("  Completed Trades: 12\n"), "{text}");
        let listed: Vec<&str> = text.lines().skip(4).collect();
        let expected: Vec<String> = (8..=12)
            .map(|n| format!("    SELL {n} credits to Node 2"))
            .collect();
        assert_eq!(listed, expected);
    }
}
