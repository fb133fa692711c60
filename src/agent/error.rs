//! What can go wrong between us and the guest agent, in the three families of the project.

use std::{path::PathBuf, time::Duration};

/// Whose fault it is, and so what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The agent answered something that we do not accept.
    Refused,
    /// Try again.
    Unavailable,
    /// The operator must change something; waiting does not help.
    Misconfigured,
}

/// A failed search, wait or call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AgentError {
    /// No socket was named and none is at the usual places.
    #[error(
        "expected the socket of a dstack guest agent, found none at {looked}; mount it into the container, or name it \
         with --dstack-socket or DSTACK_SOCKET"
    )]
    NoSocket {
        /// Where we looked, joined by commas.
        looked: String,
    },
    /// An option or a variable names what is no Unix socket.
    #[error(
        "expected the path of a Unix socket in {origin}, found {value:?}; {why}: give a socket path"
    )]
    NotAPath {
        /// The option or variable.
        origin: &'static str,
        /// What it says.
        value: String,
        /// Why it is not taken.
        why: &'static str,
    },
    /// The path cannot be the path of a socket.
    #[error("expected the path of a Unix socket, found {found} at {path:?}; {remedy}")]
    BadSocket {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Nobody answers, or the connection broke (also on the second attempt).
    #[error("the guest agent at {socket} cannot be reached for {method}: {cause}; is it running?", socket = socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The call.
        method: &'static str,
        /// What the operating system or the connection said.
        cause: String,
    },
    /// No complete answer in time.
    #[error("the guest agent at {socket} gave no complete answer to {method} within {after}; it may be busy with other quotes", socket = socket.display(), after = seconds(after))]
    TimedOut {
        /// The socket.
        socket: PathBuf,
        /// The call.
        method: &'static str,
        /// The limit.
        after: Duration,
    },
    /// [`crate::Agent::wait`] came to its deadline.
    #[error("waited {waited} for a guest agent, in vain; the last attempt: {last}", waited = seconds(waited))]
    GaveUp {
        /// How long.
        waited: Duration,
        /// The last failure.
        last: Box<AgentError>,
    },
    /// The agent does not know the method.
    #[error(
        "expected a guest agent of version 0.5.6 or later, found one that does not know {method}; update the image"
    )]
    TooOld {
        /// The call.
        method: &'static str,
    },
    /// A server that has no page for the method which every agent knows.
    #[error(
        "expected a guest agent, found a server that answers {method} with status {status}: {text}; is this \
         tappd.sock, or another server?"
    )]
    OtherServer {
        /// The call.
        method: &'static str,
        /// HTTP status.
        status: u16,
        /// Its words, shortened and made printable.
        text: String,
    },
    /// The agent answered with an error.
    #[error("the guest agent refused {method} with status {status}: {text}")]
    Answered {
        /// The call.
        method: &'static str,
        /// HTTP status.
        status: u16,
        /// Its words, shortened and made printable.
        text: String,
    },
    /// The answer is not what the protocol says.
    #[error(
        "expected {expected} in the guest agent's answer to {method}, found {found}; is this really a guest agent?"
    )]
    Malformed {
        /// The call.
        method: &'static str,
        /// What the protocol says.
        expected: String,
        /// What came, shortened and made printable.
        found: String,
    },
    /// The answer is larger than we read.
    #[error("expected at most {limit} bytes in the guest agent's answer to {method}, found more")]
    TooLarge {
        /// The call.
        method: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A quote over other bytes than we asked for.
    #[error(
        "expected a quote over report data {expected}, found {found} in its {place}; do not use this agent"
    )]
    OtherReportData {
        /// What we asked for, hex.
        expected: String,
        /// What came, hex.
        found: String,
        /// Where it stood: the answer's echo or the quote.
        place: &'static str,
    },
}

impl AgentError {
    /// Whose fault it is.
    pub fn family(&self) -> Family {
        match self {
            Self::NoSocket { .. } | Self::NotAPath { .. } | Self::BadSocket { .. } => {
                Family::Misconfigured
            }
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::GaveUp { .. } => {
                Family::Unavailable
            }
            Self::TooOld { .. }
            | Self::OtherServer { .. }
            | Self::Answered { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::OtherReportData { .. } => Family::Refused,
        }
    }
}

/// Text from outside, short and without control characters, for an operator's terminal.
pub fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut short = String::new();
    for letter in text.trim().chars().take(CHARS_MAX) {
        match letter {
            '"' | '\'' | '\\' => short.push(letter),
            _ => short.extend(letter.escape_debug()),
        }
    }
    if text.trim().chars().nth(CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// A time as people say it.
fn seconds(time: &Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// An error and its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_agent_cannot_steer_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\nc\u{9b}d"),
            "a\\u{1b}[2Jb\\nc\\u{9b}d"
        );
        assert_eq!(printable(r#"{"name":"kms"}"#), r#"{"name":"kms"}"#);
        assert_eq!(printable(&"x".repeat(200)), "x".repeat(200));
        assert_eq!(printable(&"x".repeat(201)).chars().count(), 201); // with the …
    }

    #[test]
    fn a_time_is_said_in_seconds_with_one_digit() {
        let last = AgentError::TimedOut {
            socket: PathBuf::from("/s"),
            method: "Version",
            after: Duration::from_millis(100),
        };
        let text = AgentError::GaveUp {
            waited: Duration::from_nanos(5_000_966_131),
            last: Box::new(last),
        }
        .to_string();
        assert!(text.starts_with("waited 5.0 s for"), "{text}");
        assert!(text.contains("answer to Version within 0.1 s;"), "{text}");
    }
}
