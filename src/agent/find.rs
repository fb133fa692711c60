//! Where the guest agent's socket is: what the operator says, then the environment, then the usual places.

use crate::{Agent, AgentError};
use std::path::{Path, PathBuf};

/// The order in which dstack's own SDKs look.
const STANDARD: [&str; 4] = [
    "/var/run/dstack.sock",
    "/run/dstack.sock",
    "/var/run/dstack/dstack.sock",
    "/run/dstack/dstack.sock",
];

impl Agent {
    /// Finds the socket path: `explicit`, `DSTACK_SOCKET`, `DSTACK_SIMULATOR_ENDPOINT`, then the standard paths.
    /// A path that was named need not exist yet ([`Agent::wait`] waits for it); an empty variable counts as unset.
    pub fn find(
        explicit: Option<PathBuf>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<PathBuf, AgentError> {
        find(explicit, env, &|path| path.exists())
    }
}

fn find(
    explicit: Option<PathBuf>,
    env: &dyn Fn(&str) -> Option<String>,
    exists: &dyn Fn(&Path) -> bool,
) -> Result<PathBuf, AgentError> {
    if let Some(path) = explicit {
        return Ok(path);
    }
    for variable in ["DSTACK_SOCKET", "DSTACK_SIMULATOR_ENDPOINT"] {
        if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
            return socket_path(variable, value);
        }
    }
    STANDARD
        .iter()
        .map(PathBuf::from)
        .find(|path| exists(path))
        .ok_or_else(|| AgentError::NoSocket {
            looked: STANDARD.join(", "),
        })
}

/// `unix:/path`, `unix:///path` and a bare path name a socket; any other scheme does not.
fn socket_path(variable: &'static str, value: String) -> Result<PathBuf, AgentError> {
    let path = value
        .strip_prefix("unix://")
        .or_else(|| value.strip_prefix("unix:"))
        .unwrap_or(&value);
    if path.is_empty() || path.contains("://") {
        return Err(AgentError::NotAPath { variable, value });
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        explicit: Option<&str>,
        env: &[(&str, &str)],
        existing: &[&str],
    ) -> Result<PathBuf, AgentError> {
        find(
            explicit.map(PathBuf::from),
            &|name| {
                env.iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, value)| (*value).to_owned())
            },
            &|path| existing.iter().any(|e| Path::new(e) == path),
        )
    }

    #[test]
    fn the_operator_comes_before_the_environment_and_that_before_the_usual_places() {
        let both = [("DSTACK_SOCKET", "/b"), ("DSTACK_SIMULATOR_ENDPOINT", "/c")];
        let usual = ["/var/run/dstack/dstack.sock", "/run/dstack.sock"];
        assert_eq!(check(Some("/a"), &both, &usual).unwrap(), Path::new("/a"));
        assert_eq!(check(None, &both, &usual).unwrap(), Path::new("/b"));
        assert_eq!(check(None, &both[1..], &usual).unwrap(), Path::new("/c"));
        assert_eq!(
            check(None, &[("DSTACK_SOCKET", "")], &usual).unwrap(),
            Path::new("/run/dstack.sock")
        );
        assert_eq!(
            check(None, &[("DSTACK_SOCKET", "unix:///x/y")], &[]).unwrap(),
            Path::new("/x/y")
        );
    }

    #[test]
    fn an_http_endpoint_is_refused_with_its_variable_and_the_reason() {
        let error = check(
            None,
            &[("DSTACK_SIMULATOR_ENDPOINT", "http://localhost:8090")],
            &[],
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("DSTACK_SIMULATOR_ENDPOINT") && text.contains("http://localhost:8090"),
            "{text}"
        );
        assert_eq!(error.family(), crate::Family::Misconfigured);
    }

    #[test]
    fn without_any_socket_the_error_says_where_we_looked() {
        let text = check(None, &[], &[]).unwrap_err().to_string();
        assert!(
            STANDARD.iter().all(|path| text.contains(path)) && text.contains("--dstack-socket"),
            "{text}"
        );
    }
}
