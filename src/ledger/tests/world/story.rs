//! Transcripts: commands, `----`, what people see. `check` runs one; with `STORIES=write` it writes down what it
//! saw instead, for a reader to agree or not.
#![allow(clippy::disallowed_methods)] // reads the transcripts that it is asked to check

use crate::world::{STEP_MS, World};
use std::path::PathBuf;
use synod_wire::trade::Side;
use synod_wire::{Token, Wh};

pub fn check(name: &str) -> World {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "testdata", name]
        .iter()
        .collect();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{name}: {why}"));
    let mut world = World::new(3, 1);
    let mut seen = String::new();
    for block in text.split("\n\n").filter(|b| !b.trim().is_empty()) {
        let commands = block.split("\n----").next().unwrap_or_default();
        seen += commands.trim_end();
        seen.push('\n');
        let shown = run(&mut world, commands);
        if !commands.lines().all(|l| l.starts_with('#')) {
            seen += "----\n";
            seen += &shown;
        }
        seen.push('\n');
    }
    let seen = seen.trim_end().to_owned() + "\n";
    if std::env::var_os("STORIES").is_some_and(|v| v == "write") {
        std::fs::write(&path, &seen).unwrap();
    } else {
        assert_eq!(
            seen, text,
            "{name}: the story went otherwise; left = now, right = written"
        );
    }
    world
}

/// Runs the commands of one block; answers what was seen, repetitions left out.
fn run(world: &mut World, commands: &str) -> String {
    let from = world.trace.len();
    let lines = commands.lines().filter(|l| !l.starts_with('#'));
    for command in lines.flat_map(|l| l.split(';')) {
        obey(world, command.trim());
    }
    let mut shown: Vec<&str> = Vec::new();
    for line in &world.trace[from..] {
        if !shown.contains(&&line[7..]) {
            shown.push(&line[7..]);
        }
    }
    shown.iter().map(|line| (*line).to_owned() + "\n").collect()
}

fn obey(world: &mut World, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let Some((verb, rest)) = words.split_first() else {
        return;
    };
    let number = |place: usize| rest[place].parse::<u64>().unwrap();
    let tokens: Vec<Token> = rest
        .iter()
        .filter_map(|w| w.parse().ok())
        .map(Token)
        .collect();
    match *verb {
        "nodes" => {
            let trace = std::mem::take(&mut world.trace);
            *world = World::new(number(0), 1);
            world.trace = trace;
        }
        "kept" => {
            let settings = synod_ledger::Settings {
                kept_per_author_max: rest[0].parse().unwrap(),
                ..world.settings.clone()
            };
            *world = World::with(3, 1, settings);
        }
        "sell" | "buy" => {
            let side = if *verb == "sell" {
                Side::Sell
            } else {
                Side::Buy
            };
            world.wish(tokens[0], side, tokens[1], rest[2].parse::<Wh>().unwrap());
        }
        "advance" => world.advance(number(0)),
        "until-rest" => until_rest(world, number(0)),
        "kill" => tokens.iter().for_each(|t| world.kill(*t)),
        "start" => tokens.iter().for_each(|t| world.start(*t)),
        "restart" => tokens.iter().for_each(|t| {
            world.kill(*t);
            world.start(*t);
        }),
        "lead" => world.lead(tokens[0]),
        "pause-log" => tokens.iter().for_each(|t| world.node(*t).log_paused = true),
        "resume-log" => tokens
            .iter()
            .for_each(|t| world.node(*t).log_paused = false),
        // what the first token sends to the others is lost
        "cut" => tokens[1..].iter().for_each(|to| {
            world.cut.insert((tokens[0], *to));
        }),
        "heal" => {
            world.cut.clear();
            (world.loss_percent, world.double_percent) = (0, 0);
        }
        "double" => world.double_percent = number(0),
        "forge" => world.forge(tokens[0], rest[1]),
        "show" => show(world),
        other => panic!("unknown command {other}"),
    }
}

fn until_rest(world: &mut World, within: u64) {
    let end = world.now + within;
    while world.now < end && !world.unrest().is_empty() {
        world.advance(STEP_MS);
    }
    let unrest = world.unrest();
    let line = match unrest.is_empty() {
        true => format!("at rest within {within} ms"),
        false => format!("NO REST within {within} ms: {}", unrest.join("; ")),
    };
    world.note(line);
}

fn show(world: &mut World) {
    let lines: Vec<String> = world
        .nodes
        .iter()
        .filter_map(|(token, node)| {
            let ledger = node.ledger.as_ref()?;
            let accounts = &node.accounts;
            let balance = accounts.balance(*token).unwrap_or_default();
            let (open, held) = (ledger.open().count(), ledger.buffered());
            let reserved = ledger.reserved(accounts);
            Some(format!(
                "= {token} has {balance} (reserved {reserved}), clock {}, {open} open, {held} held",
                ledger.clock()
            ))
        })
        .collect();
    lines.into_iter().for_each(|line| world.note(line));
}
