//! A typed line becomes a command, or a sentence that says what was expected; the prototype's words where it had
//! some. Nothing is asked of a node here.

use synod_wire::Wh;
use synod_wire::trade::{BadAmount, Side};

/// Longest line that is looked at, in bytes.
pub(crate) const LINE_LEN_MAX: usize = 200;
/// Longest word that an error repeats, in characters.
const WORD_SHOWN_MAX: usize = 40;

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// An empty line.
    Nothing,
    Help,
    Status,
    Balance,
    Trade {
        side: Side,
        with: u64,
        amount: Wh,
    },
    Nodes,
    History,
    Election,
    Quit,
    /// Talk to this node from now on.
    Use(u64),
    /// kill -9.
    Kill(u64),
    /// Once more from its disk.
    Start(u64),
}

/// Where a line was typed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// At this node's prompt.
    pub node: u64,
    /// This prompt has processes in its hands: `use`, `kill` and `start` are words.
    pub several: bool,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misunderstood {
    #[error("Unknown command: {0}. Type 'help' for commands.")]
    Unknown(String),
    #[error("Usage: {0}")]
    Usage(&'static str),
    #[error("Cannot trade with yourself")]
    Yourself,
    #[error("Error: expected the number of a node, found {0:?}")]
    NoNode(String),
    #[error("Error: {0}")]
    NoAmount(#[from] BadAmount),
    #[error("Error: expected more than 0 credits, found {0}")]
    NotPositive(String),
    #[error("Error: expected at most {LINE_LEN_MAX} bytes in a line, found {0}")]
    TooLong(usize),
}

/// Upper and lower case are the same, spaces count nothing.
pub(crate) fn parse(line: &str, place: Place) -> Result<Command, Misunderstood> {
    if line.len() > LINE_LEN_MAX {
        return Err(Misunderstood::TooLong(line.len()));
    }
    let line = line.to_lowercase();
    let mut words = line.split_whitespace();
    let Some(name) = words.next() else {
        return Ok(Command::Nothing);
    };
    let rest: Vec<&str> = words.collect();
    let alone = |usage, command| match rest[..] {
        [] => Ok(command),
        _ => Err(Misunderstood::Usage(usage)),
    };
    let of_node = |usage, command: fn(u64) -> Command| match rest[..] {
        [number] => node(number).map(command),
        _ => Err(Misunderstood::Usage(usage)),
    };
    match name {
        "help" => alone("help", Command::Help),
        "status" => alone("status", Command::Status),
        "balance" => alone("balance", Command::Balance),
        "sell" => trade("sell <node_id> <amount>", Side::Sell, &rest, place.node),
        "buy" => trade("buy <node_id> <amount>", Side::Buy, &rest, place.node),
        "nodes" => alone("nodes", Command::Nodes),
        "history" => alone("history", Command::History),
        "election" => alone("election", Command::Election),
        "quit" | "exit" | "q" => alone("quit", Command::Quit),
        "use" if place.several => of_node("use <node_id>", Command::Use),
        "kill" if place.several => of_node("kill <node_id>", Command::Kill),
        "start" if place.several => of_node("start <node_id>", Command::Start),
        _ => Err(Misunderstood::Unknown(shown(name))),
    }
}

fn trade(
    usage: &'static str,
    side: Side,
    words: &[&str],
    here: u64,
) -> Result<Command, Misunderstood> {
    let [with, amount] = words else {
        return Err(Misunderstood::Usage(usage));
    };
    let with = node(with)?;
    if with == here {
        return Err(Misunderstood::Yourself);
    }
    // a sign is no part of an amount; what stands behind it says which mistake it is
    let below_zero = amount
        .strip_prefix('-')
        .is_some_and(|rest| rest.parse::<Wh>().is_ok());
    if below_zero {
        return Err(Misunderstood::NotPositive(shown(amount)));
    }
    match amount.parse()? {
        Wh(0) => Err(Misunderstood::NotPositive(shown(amount))),
        amount => Ok(Command::Trade { side, with, amount }),
    }
}

/// Digits alone: `u64` would take a plus sign.
fn node(word: &str) -> Result<u64, Misunderstood> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let number = word.parse().ok().filter(|_| digits);
    number.ok_or_else(|| Misunderstood::NoNode(shown(word)))
}

fn shown(word: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    word.chars().take(WORD_SHOWN_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Place = Place {
        node: 1,
        several: true,
    };
    const ALONE: Place = Place {
        node: 1,
        several: false,
    };

    fn trade(side: Side, with: u64, wh: u64) -> Command {
        let amount = Wh(wh);
        Command::Trade { side, with, amount }
    }

    #[test]
    fn every_word_is_understood() {
        for (line, command) in [
            ("", Command::Nothing),
            ("   \t ", Command::Nothing),
            ("help", Command::Help),
            ("  STATUS  ", Command::Status),
            ("Balance", Command::Balance),
            ("sell 2 30", trade(Side::Sell, 2, 30_000)),
            ("SELL  2\t2.5", trade(Side::Sell, 2, 2_500)),
            ("sell 2 0.001", trade(Side::Sell, 2, 1)),
            ("buy 3 10", trade(Side::Buy, 3, 10_000)),
            ("nodes", Command::Nodes),
            ("history", Command::History),
            ("election", Command::Election),
            ("quit", Command::Quit),
            ("exit", Command::Quit),
            ("q", Command::Quit),
            ("use 2", Command::Use(2)),
            ("kill 1", Command::Kill(1)),
            ("start 1", Command::Start(1)),
        ] {
            assert_eq!(parse(line, UP), Ok(command), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_in_the_prototypes_words() {
        for (line, words) in [
            ("dance", "Unknown command: dance. Type 'help' for commands."),
            (
                "Dance 2",
                "Unknown command: dance. Type 'help' for commands.",
            ),
            ("sell", "Usage: sell <node_id> <amount>"),
            ("sell 2", "Usage: sell <node_id> <amount>"),
            ("sell 2 3 4", "Usage: sell <node_id> <amount>"),
            ("buy 2", "Usage: buy <node_id> <amount>"),
            ("sell 1 30", "Cannot trade with yourself"),
            ("buy 1 30", "Cannot trade with yourself"),
            (
                "sell two 30",
                "Error: expected the number of a node, found \"two\"",
            ),
            (
                "sell +2 30",
                "Error: expected the number of a node, found \"+2\"",
            ),
            (
                "sell -2 30",
                "Error: expected the number of a node, found \"-2\"",
            ),
            (
                "sell 18446744073709551616 30",
                "Error: expected the number of a node, found \"18446744073709551616\"",
            ),
            (
                "sell 2 many",
                "Error: expected credits as a number with at most three decimals, found \"many\"",
            ),
            (
                "sell 2 1e3",
                "Error: expected credits as a number with at most three decimals, found \"1e3\"",
            ),
            (
                "buy 2 1.2345",
                "Error: expected credits as a number with at most three decimals, found \"1.2345\"",
            ),
            ("sell 2 0", "Error: expected more than 0 credits, found 0"),
            (
                "sell 2 0.000",
                "Error: expected more than 0 credits, found 0.000",
            ),
            (
                "sell 2 -50",
                "Error: expected more than 0 credits, found -50",
            ),
            ("status now", "Usage: status"),
            ("quit 1", "Usage: quit"),
            ("use", "Usage: use <node_id>"),
            ("kill 1 2", "Usage: kill <node_id>"),
            (
                "start all",
                "Error: expected the number of a node, found \"all\"",
            ),
        ] {
            let found = parse(line, UP).expect_err(line).to_string();
            assert_eq!(found, words, "{line:?}");
        }
    }

    #[test]
    fn one_node_has_no_others_to_use_kill_or_start() {
        for word in ["use", "kill", "start"] {
            let found = parse(&format!("{word} 2"), ALONE);
            assert_eq!(found, Err(Misunderstood::Unknown(word.to_owned())));
        }
    }

    #[test]
    fn a_line_and_what_is_repeated_of_it_are_bounded() {
        let longest = format!("help{}", " ".repeat(LINE_LEN_MAX - 4));
        assert_eq!(parse(&longest, UP), Ok(Command::Help));
        let found = parse(&format!("{longest} "), UP);
        assert_eq!(found, Err(Misunderstood::TooLong(LINE_LEN_MAX + 1)));
        let Err(Misunderstood::Unknown(word)) = parse(&"x".repeat(LINE_LEN_MAX), UP) else {
            panic!("a command");
        };
        assert_eq!(word.len(), WORD_SHOWN_MAX);
        let found = parse("\u{1b}[31mred", UP).expect_err("no word");
        assert!(found.to_string().starts_with("Unknown command: ?[31mred."));
    }
}
