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
        let mut said: Option<(String, Instant)> = None;
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
            if said
                .as_ref()
                .is_none_or(|(last, when)| *last != message || when.elapsed() >= SAY_AGAIN)
            {
                on_wait(&message);
                said = Some((message, Instant::now()));
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
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
