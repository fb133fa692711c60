//! Transcripts: commands, `----`, what people see. `check` runs one; with `STORIES=write` it writes down what it
//! saw instead, for a reader to agree or not.
#![allow(clippy::disallowed_methods)] // reads the transcripts that it is asked to check

use crate::said::list;
use crate::world::{Bugs, Due, World, pair};
use std::path::PathBuf;
use synod_cluster::Event;
use synod_wire::ballot::{Anchor, Ballot};
use synod_wire::{LogPosition, Message, Token};

pub fn check(name: &str) -> World {
    check_with(name, Bugs::default())
}

pub fn check_with(name: &str, bugs: Bugs) -> World {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "testdata", name]
        .iter()
        .collect();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{name}: {why}"));
    let mut world = World::new(3, 1);
    world.bugs = bugs;
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
    if std::env::var_os("STORIES").is_some_and(|v| v == "write") && bugs.is_none() {
        std::fs::write(&path, &seen).unwrap();
    } else if bugs.is_none() {
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
    let mut shown: Vec<String> = Vec::new();
    for command in commands
        .lines()
        .filter(|l| !l.starts_with('#'))
        .flat_map(|l| l.split(';'))
    {
        if let Some(answer) = obey(world, command.trim()) {
            world.note(answer);
        }
    }
    for line in &world.trace[from..] {
        let text = line[7..].to_owned();
        if !shown.contains(&text) {
            shown.push(text);
        }
    }
    shown.iter().map(|line| line.clone() + "\n").collect()
}

fn obey(world: &mut World, command: &str) -> Option<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let (verb, rest) = words.split_first()?;
    let numbers: Vec<u64> = rest.iter().filter_map(|w| w.parse().ok()).collect();
    let tokens: Vec<Token> = numbers.iter().copied().map(Token).collect();
    match *verb {
        "nodes" => *world = World::new(numbers[0], 1),
        "start" => tokens.iter().for_each(|t| world.start(*t)),
        "kill" => tokens.iter().for_each(|t| world.kill(*t)),
        "restart" => tokens.iter().for_each(|t| {
            world.kill(*t);
            world.start(*t);
        }),
        "wipe" => tokens
            .iter()
            .for_each(|t| world.node(*t).engine.disk = Default::default()),
        "backup" => tokens.iter().for_each(|t| {
            let disk = world.node(*t).engine.disk.clone();
            world.node(*t).backup = disk;
        }),
        "older-disk" => tokens.iter().for_each(|t| {
            let disk = world.node(*t).backup.clone();
            world.node(*t).engine.disk = disk;
        }),
        "advance" => world.advance(numbers[0]),
        "until-settled" => return Some(settle(world, numbers[0])),
        "pause" => tokens.iter().for_each(|t| world.node(*t).paused = true),
        "resume" => tokens.iter().for_each(|t| world.node(*t).paused = false),
        "hang" => tokens.iter().for_each(|t| world.node(*t).hung = true),
        "rpc" => world
            .nodes
            .values_mut()
            .for_each(|n| n.rpc_down = rest[0] == "down"),
        "rpc-down" => tokens.iter().for_each(|t| world.node(*t).rpc_down = true),
        "rpc-up" => tokens.iter().for_each(|t| world.node(*t).rpc_down = false),
        "write" => (0..numbers[0]).for_each(|_| assert!(world.write(), "somebody is in office")),
        "call" => tokens
            .iter()
            .for_each(|t| world.tell(*t, Event::CallElection)),
        "add" => tokens.iter().for_each(|t| {
            assert_eq!(world.add(), *t, "tokens are given in order");
            world.start(*t);
        }),
        "say-hand-over" => say_hand_over(world, tokens[0], numbers[1], tokens[2]),
        "say-call" => say_call(world, tokens[0], tokens[1]),
        "write-often" => (0..numbers[0] / 10).for_each(|_| {
            world.write();
            world.advance(10);
        }),
        "leave" => leave(world, tokens[0]),
        "cut" | "cut-udp" | "cut-links" => cut(world, verb, &tokens),
        "heal" => {
            world.network.udp_cut.clear();
            world.network.links_cut.clear();
        }
        "loss" => world.network.loss_percent = numbers[0],
        "ask-ballot" => ask_ballot(world, tokens[0], tokens[1], numbers[2], numbers[3]),
        "replay-join-response" => replay(world, tokens[0]),
        "show" => return Some(show(world)),
        other => panic!("unknown command {other}"),
    }
    None
}

fn settle(world: &mut World, within: u64) -> String {
    let end = world.now + within;
    while world.now < end && !world.is_settled() {
        world.advance(10);
    }
    let leader = world
        .in_office()
        .map_or("nobody".to_owned(), |t| t.to_string());
    let settled = if world.is_settled() {
        "settled"
    } else {
        "NOT SETTLED"
    };
    format!("{settled} within {within} ms: {leader} leads")
}

/// The first token from each of the others.
fn cut(world: &mut World, verb: &str, tokens: &[Token]) {
    for other in &tokens[1..] {
        let between = pair(tokens[0], *other);
        if verb != "cut-links" {
            world.network.udp_cut.insert(between);
        }
        if verb != "cut-udp" {
            world.network.links_cut.insert(between);
        }
    }
}

/// A broken member says HAND_OVER: from, term, to.
fn say_hand_over(world: &mut World, from: Token, term: u64, to: Token) {
    let term = synod_wire::Term(term);
    world.send(from, None, &Message::HandOver { term, to });
    world.advance(10);
}

/// A broken member calls for elections, twenty times a second for ten seconds.
fn say_call(world: &mut World, from: Token, leader: Token) {
    for _ in 0..200 {
        let term = synod_wire::Term(world.contract.view.term.0 + 1);
        world.send(from, Some(leader), &Message::CallElection { term });
        world.advance(50);
    }
}

fn leave(world: &mut World, token: Token) {
    let incarnation = world.nodes[&token].incarnation;
    let frame = world.seal(token, &Message::Leave);
    for to in world.all_but(token) {
        world.later(5, Due::Frame(to, incarnation, frame.clone()));
    }
    world.advance(10);
    world.kill(token);
}

/// A broken member asks for a ballot with a deadline and an index of its choice.
fn ask_ballot(world: &mut World, from: Token, to: Token, deadline_s: u64, index: u64) {
    let view = world.contract.read(world.now);
    let ballot = Ballot {
        term: synod_wire::Term(view.term.0 + 1),
        candidate: from,
        anchor: Anchor::default(),
        deadline: view.block.time + deadline_s,
    };
    let position = LogPosition {
        raft_term: 99,
        index,
    };
    let message = Message::BallotRequest {
        ballot,
        position,
        cold_start: false,
    };
    let incarnation = world.nodes[&from].incarnation;
    let frame = world.seal(from, &message);
    world.later(1, Due::Frame(to, incarnation, frame));
    world.advance(10);
}

/// The last JOIN_RESPONSE that this token was ever sent, as its host recorded it.
fn replay(world: &mut World, token: Token) {
    let frame = world.last_join_response[&token].clone();
    let incarnation = frame.incarnation();
    world.later(1, Due::Frame(token, incarnation, frame));
    world.advance(10);
}

pub fn show(world: &World) -> String {
    let node = |(token, node): (&Token, &crate::world::Node)| match &node.cluster {
        None => format!("{token} is down"),
        Some(c) => {
            let role = if c.in_office() {
                "in office"
            } else {
                "follows"
            };
            let leader = c.leader().map_or("nobody".to_owned(), |l| l.to_string());
            let mute = if c.mute().may_speak() { "" } else { ", muted" };
            let (term, len) = (c.highest_term(), node.engine.disk.committed);
            format!("{token} {role}, term {term} led by {leader}, {len} committed{mute}")
        }
    };
    let lines: Vec<String> = world.nodes.iter().map(node).collect();
    format!("= {}", lines.join("; "))
}

impl Bugs {
    fn is_none(self) -> bool {
        !self.gate_ignores_promise && !self.restarts_unmuted && !self.leader_keeps_writing
    }
}

/// For messages of tests.
pub fn history(world: &World) -> String {
    let gone = |c: &synod_cluster::Cluster| c.leader_gone();
    let doubters: Vec<Token> = world
        .nodes
        .iter()
        .filter(|(_, n)| n.cluster.as_ref().is_some_and(gone))
        .map(|(token, _)| *token)
        .collect();
    format!(
        "{}\n{}\nthe leader is gone for {}\nviolations: {:?}",
        world.trace.join("\n"),
        show(world),
        list(&doubters),
        world.judge.violations
    )
}
