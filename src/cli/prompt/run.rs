//! The prompt: reads a line, asks the node whose prompt it is, shows the answer, and lets the event lines of all nodes
//! through meanwhile. It survives the node that it talks to: the supervisor is another process.

use super::client::{Client, ClientError};
use super::keys::{Keys, Typed};
use super::screen::{answer, say};
use super::show::{self, StatusBlock};
use super::words::{Command, Place, parse};
use anyhow::Context;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinSet;

/// A node that went or has not begun is looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For the first answer of the first node; then the banner comes without it.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// A node that can be talked to.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub node: u64,
    /// Its control socket.
    pub socket: PathBuf,
}

/// Whoever holds the nodes' processes.
pub(crate) trait Hands {
    /// kill -9. What happened, in words.
    async fn kill(&mut self, node: u64) -> anyhow::Result<String>;
    /// Once more, from its disk.
    async fn start(&mut self, node: u64) -> anyhow::Result<String>;
    /// Those whose process does not run, and those that [`Hands::kill`] ended among them.
    async fn down(&mut self) -> Down;
}

/// Nodes without a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Down {
    /// For whatever reason.
    pub all: Vec<u64>,
    /// By our own hands.
    pub killed: Vec<u64>,
}

/// No hands: one node, in this process or under another supervisor. There is no value of this type.
pub(crate) enum NoHands {}

impl Hands for NoHands {
    async fn kill(&mut self, _: u64) -> anyhow::Result<String> {
        match *self {}
    }

    async fn start(&mut self, _: u64) -> anyhow::Result<String> {
        match *self {}
    }

    async fn down(&mut self) -> Down {
        match *self {}
    }
}

/// Why there is no prompt any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Somebody wants to leave: `quit`, Ctrl-C, Ctrl-D, the end of a pipe that had commands.
    Leave,
    /// Nobody can type: in the background, or a pipe that ended without a line.
    NobodyTypes,
}

/// Talk until somebody leaves. Dropped, the terminal is as it was.
pub(crate) async fn run<H: Hands>(seats: Vec<Seat>, hands: Option<H>) -> Ended {
    let Some(mut keys) = Keys::open() else {
        return Ended::NobodyTypes;
    };
    let Some(mut prompt) = Prompt::new(&seats, hands) else {
        return Ended::NobodyTypes;
    };
    if keys.seated {
        prompt.banner().await;
    }
    let mut heard = false;
    loop {
        let typed = keys.next(&format!("Node {}> ", prompt.here.node())).await;
        let line = match typed {
            Typed::Line(line) => line,
            Typed::End if !heard && !keys.seated => return Ended::NobodyTypes,
            Typed::End | Typed::Interrupt => break,
            Typed::Broken(why) => {
                say(&format!("the prompt ends: {why}"));
                return Ended::NobodyTypes;
            }
        };
        heard = true;
        let place = Place {
            node: prompt.here.node(),
            several: prompt.hands.is_some(),
        };
        match parse(&line, place) {
            Ok(Command::Nothing) => {}
            Ok(Command::Quit) => break,
            Ok(command) => match prompt.obey(command).await {
                Ok(text) if text.is_empty() => {}
                Ok(text) => answer(&text),
                Err(why) => answer(&why.to_string()),
            },
            Err(why) => answer(&why.to_string()),
        }
    }
    answer("Shutting down...");
    Ended::Leave
}

struct Prompt<H> {
    here: Client,
    seats: Vec<Client>,
    hands: Option<H>,
    /// One for each node; they end with the prompt.
    _followers: JoinSet<()>,
}

impl<H: Hands> Prompt<H> {
    /// At the first seat; none when there is no seat at all.
    fn new(seats: &[Seat], hands: Option<H>) -> Option<Self> {
        let seats: Vec<Client> = seats
            .iter()
            .map(|seat| Client::new(seat.node, &seat.socket))
            .collect();
        let here = seats.first()?.clone();
        let mut followers = JoinSet::new();
        for seat in &seats {
            followers.spawn(follow(seat.clone()));
        }
        Some(Self {
            here,
            seats,
            hands,
            _followers: followers,
        })
    }

    async fn banner(&self) {
        let first = async {
            loop {
                match self.here.status().await {
                    Ok(status) => return status.attestation,
                    Err(_) => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        };
        let worth = tokio::time::timeout(FIRST_WITHIN, first).await;
        answer(&show::banner(self.here.node(), &worth.unwrap_or_default()));
    }

    /// What to print; nothing where the end comes as an event line.
    async fn obey(&mut self, command: Command) -> anyhow::Result<String> {
        let told = match command {
            Command::Nothing | Command::Quit => Ok(String::new()),
            Command::Help => Ok(show::help(self.hands.is_some())),
            Command::Status => self.status().await,
            Command::Balance => self.here.balances().await.map(|b| show::balance(&b)),
            Command::Trade { side, with, amount } => {
                let offered = self.here.trade(side, with, amount).await;
                offered.map(|()| String::new())
            }
            Command::Nodes => {
                let killed = self.down().await.killed;
                let members = self.here.members().await;
                members.map(|members| show::nodes(&members, &killed))
            }
            Command::History => self.history().await,
            // what became of it comes as an event line, like everything that the node does
            Command::Election => self.here.election().await.map(|_| String::new()),
            Command::Use(node) => return self.move_to(node).await,
            Command::Kill(node) | Command::Start(node) => {
                self.seat(node)?;
                let hands = self.hands.as_mut();
                let hands = hands.context("Error: no process is in this prompt's hands")?;
                return match command {
                    Command::Kill(_) => hands.kill(node).await,
                    _ => hands.start(node).await,
                };
            }
        };
        match told {
            Ok(text) => Ok(text),
            Err(why) => Err(self.explain(why).await),
        }
    }

    async fn status(&self) -> Result<String, ClientError> {
        let (status, members) = (self.here.status().await?, self.here.members().await?);
        // a muted node shows neither, and its reason stands in their place
        let balances = readable(self.here.balances().await)?;
        let clock = readable(self.here.clock().await)?;
        Ok(show::status(&StatusBlock {
            node: self.here.node(),
            status: &status,
            members: &members,
            balances: balances.as_ref().map_err(String::as_str),
            clock: clock.as_ref().map_err(String::as_str),
        }))
    }

    async fn history(&self) -> Result<String, ClientError> {
        let balances = self.here.balances().await?;
        let mut history = show::History::of(self.here.node());
        self.here.trades(|page| history.take(page)).await?;
        Ok(show::history(&balances, &history))
    }

    async fn move_to(&mut self, node: u64) -> anyhow::Result<String> {
        self.here = self.seat(node)?;
        match self.here.status().await {
            Ok(_) => Ok(String::new()),
            // one stands at its prompt all the same: it may be started from there
            Err(why) => Err(self.explain(why).await),
        }
    }

    fn seat(&self, node: u64) -> anyhow::Result<Client> {
        let found = self.seats.iter().find(|seat| seat.node() == node);
        found.cloned().ok_or_else(|| {
            let there: Vec<u64> = self.seats.iter().map(Client::node).collect();
            anyhow::anyhow!("Error: expected one of the nodes {there:?}, found {node}")
        })
    }

    /// Whoever holds the processes knows more than a socket that nobody serves.
    async fn explain(&mut self, why: ClientError) -> anyhow::Error {
        let node = self.here.node();
        if self.down().await.all.contains(&node) {
            return anyhow::anyhow!("node {node} does not run; start it with: start {node}");
        }
        if why.is_away() && self.hands.is_some() {
            return anyhow::anyhow!("node {node} is starting and does not answer yet; try again");
        }
        why.into()
    }

    async fn down(&mut self) -> Down {
        match &mut self.hands {
            Some(hands) => hands.down().await,
            None => Down::default(),
        }
    }
}

/// A refusal becomes words; whatever else is wrong stays an error.
fn readable<T>(read: Result<T, ClientError>) -> Result<Result<T, String>, ClientError> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(ClientError::Refused { error, detail }) => Ok(Err(detail.unwrap_or(error))),
        Err(why) => Err(why),
    }
}

/// Event lines of one node, above the prompt. They begin with its name. A process that came after this prompt is
/// listened to from its first line on, however late we find it.
async fn follow(node: Client) {
    let mut came_later = false;
    loop {
        let lines = node.lines(came_later).await;
        came_later = true;
        if let Ok(mut lines) = lines {
            while let Some(line) = lines.next().await {
                say(&line);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
