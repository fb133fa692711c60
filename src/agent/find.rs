//! Where the guest agent's socket is: what the operator says, then the environment, then the usual places.

use crate::{Agent, AgentError};
use std::path::{Path, PathBuf};

/// How people name a path by hand.
const EXPLICIT: &str = "--dstack-socket";
/// The order in which dstack's own SDKs look.
const STANDARD: [&str; 4] = [
    "/var/run/dstack.sock",
    "/run/dstack.sock",
    "/var/run/dstack/dstack.sock",
    "/run/dstack/dstack.sock",
];

impl Agent {
    /// Finds the socket path: `explicit` (what `--dstack-socket` says), `DSTACK_SOCKET`, `DSTACK_SIMULATOR_ENDPOINT`,
    /// then the standard paths. All three are read by [`socket_path`]. A path that was named need not exist yet
    /// ([`Agent::wait`] waits for it); an empty variable counts as unset.
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
        return socket_path(EXPLICIT, &path);
    }
    for variable in ["DSTACK_SOCKET", "DSTACK_SIMULATOR_ENDPOINT"] {
        if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
            return socket_path(variable, Path::new(&value));
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

/// The socket that `value` names, which the operator gave as `origin`: `unix:/path`, `unix:///path` and a bare path name
/// one, any other scheme does not. A path that is no UTF-8 has no scheme; [`Agent::new`] judges it.
pub fn socket_path(origin: &'static str, value: &Path) -> Result<PathBuf, AgentError> {
    let Some(text) = value.to_str() else {
        return Ok(value.to_owned());
    };
    let path = text
        .strip_prefix("unix://")
        .or_else(|| text.strip_prefix("unix:"))
        .unwrap_or(text);
    let refused = |why| {
        let value = text.to_owned();
        Err(AgentError::NotAPath { origin, value, why })
    };
    if path.is_empty() {
        return refused("it names nothing");
    }
    if path.contains("://") {
        return refused(
            "an agent over http would hand keys to everybody on the network, so it is not used",
        );
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
    fn what_names_no_socket_is_refused_with_its_origin_and_the_reason() {
        let endpoint = "DSTACK_SIMULATOR_ENDPOINT";
        for (value, why) in [
            ("http://localhost:8090", "over http would hand keys"),
            ("unix:http://localhost", "over http would hand keys"),
            ("unix://", "it names nothing"),
        ] {
            for (origin, result) in [
                (endpoint, check(None, &[(endpoint, value)], &[])),
                ("--dstack-socket", check(Some(value), &[], &[])),
            ] {
                let error = result.unwrap_err();
                let text = error.to_string();
                let said = [origin, value, why].iter().all(|it| text.contains(it));
                assert!(said, "{text}");
                assert_eq!(error.family(), crate::Family::Misconfigured);
            }
        }
        assert!(check(Some(""), &[], &[]).is_err());
    }

    #[test]
    fn every_origin_may_say_unix() {
        for value in ["unix:/x/y", "unix:///x/y", "/x/y"] {
            assert_eq!(check(Some(value), &[], &[]).unwrap(), Path::new("/x/y"));
            let env = [("DSTACK_SOCKET", value)];
            assert_eq!(check(None, &env, &[]).unwrap(), Path::new("/x/y"));
        }
        assert_eq!(check(Some("x:y"), &[], &[]).unwrap(), Path::new("x:y"));
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
