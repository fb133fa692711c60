//! Waiting for an agent that is not there yet, with a limit and with words.

use crate::{Agent, AgentError, Family};
use std::{fs, io, os::unix::fs::FileTypeExt, path::Path, time::Duration};
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The same message is said again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(5);
/// The last probe may begin at the deadline; it gets this time.
const SHORTEST_PROBE: Duration = Duration::from_millis(100);
/// A probe that takes longer than this has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

impl Agent {
    /// Waits until an agent answers on this socket, at most until the deadline. What waiting cannot mend (a directory
    /// instead of a socket, missing rights, a server that is no agent) ends it at once. `on_wait` gets a sentence
    /// when the reason changes, and every five seconds.
    pub async fn wait(
        socket: &Path,
        deadline: Duration,
        mut on_wait: impl FnMut(&str),
    ) -> Result<Self, AgentError> {
        let agent = Self::new(socket)?;
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut said = Said::default();
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            let error = match probe(socket, left.clamp(SHORTEST_PROBE, PROBE_TIMEOUT)).await {
                Ok(()) => return Ok(agent),
                Err(error) if error.family() != Family::Unavailable => return Err(error),
                Err(error) => error,
            };
            if left.is_zero() {
                return Err(AgentError::GaveUp {
                    waited: started.elapsed(),
                    last: Box::new(error),
                });
            }
            let message = format!("waiting for the guest agent: {error}");
            if said.is_due(&message, Instant::now()) {
                on_wait(&message);
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What was said last, so that a log shows each reason at once and a lasting one every few seconds.
#[derive(Default)]
struct Said(Option<(String, Instant)>);

impl Said {
    fn is_due(&mut self, message: &str, now: Instant) -> bool {
        let fresh = |(last, when): &(String, Instant)| {
            last == message && now.saturating_duration_since(*when) < SAY_AGAIN
        };
        if self.0.as_ref().is_some_and(fresh) {
            return false;
        }
        self.0 = Some((message.to_owned(), now));
        true
    }
}

async fn probe(socket: &Path, limit: Duration) -> Result<(), AgentError> {
    let bad = |found, remedy| {
        Err(AgentError::BadSocket {
            path: socket.to_owned(),
            found,
            remedy,
        })
    };
    match fs::metadata(socket) {
        Ok(found) if found.is_dir() => {
            return bad(
                "a directory",
                "a mount makes one when its source is missing: check the path on the host",
            );
        }
        Ok(found) if !found.file_type().is_socket() => {
            return bad("another kind of file", "name the agent's socket");
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return bad(
                "a path that this user may not look at",
                "give this user the right to use the socket",
            );
        }
        Ok(_) | Err(_) => {}
    }
    match tokio::net::UnixStream::connect(socket).await {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return bad(
                "a socket that this user may not open",
                "give this user the right to use the socket",
            );
        }
        Err(error) => {
            let cause = error.to_string();
            return Err(AgentError::Unreachable {
                socket: socket.to_owned(),
                method: "Version",
                cause,
            });
        }
        Ok(_) => {}
    }
    Agent::with_timeout(socket, limit)?
        .version()
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_said_when_it_changes_and_every_five_seconds() {
        let start = Instant::now();
        let mut said = Said::default();
        let mut heard = Vec::new();
        // asked every 100 ms for 16 s; the reason changes once, after 7 s
        for tick in 0..160_u64 {
            let now = start + Duration::from_millis(100 * tick);
            let reason = if tick < 70 { "no socket" } else { "silence" };
            if said.is_due(reason, now) {
                heard.push((tick, reason));
            }
        }
        assert_eq!(
            heard,
            [
                (0, "no socket"),
                (50, "no socket"),
                (70, "silence"),
                (120, "silence")
            ]
        );
    }
}
