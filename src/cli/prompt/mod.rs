//! The interactive prompt: a client of the control sockets of one node (`synod node`) or of several (`synod up`). It
//! knows no more than a node tells it, and holds no key. The prototype's words and shapes; `words` and `show` are
//! pure, `keys` and `screen` are the terminal.

mod client;
mod keys;
mod run;
mod screen;
mod show;
mod words;

pub(crate) use run::{Down, Ended, Hands, NoHands, Seat, run};
pub(crate) use screen::say;

use client::Client;
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks for the socket of a node that starts.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The prompt of one node, in this process or a child of it. When somebody leaves, the node is asked to leave too;
/// whoever called waits for its end, which comes with [`Ended::Leave`]. With [`Ended::NobodyTypes`] it goes on alone.
pub(crate) async fn at_terminal(node: u64, socket: PathBuf) -> Ended {
    // whoever waits for us waits for the node's end as well, so this ends
    while !socket.exists() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let seat = Seat {
        node,
        socket: socket.clone(),
    };
    let ended = run::<NoHands>(vec![seat], None).await;
    if ended == Ended::Leave
        && let Err(why) = Client::new(node, &socket).quit().await
    {
        // one that is not there needs no asking
        say(&why.to_string());
    }
    ended
}
