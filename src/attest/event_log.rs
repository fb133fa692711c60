//! The event log of a dstack guest: replay of RTMR3 and the identity that it proves.
//!
//! Rules: digests are recomputed from name and payload, never believed; identity is read from the very list that was
//! replayed, only before `system-ready` (what follows was written by the application), each name exactly once.
//! It does not know the quote: the caller compares the digest with the register.

use serde::Deserialize;
use sha2::{Digest, Sha384};

/// Longest log text.
pub const LOG_MAX: usize = 2 * 1024 * 1024;
/// Most events in a log.
pub const EVENTS_MAX: usize = 1024;
/// Longest payload of a runtime event.
pub const PAYLOAD_MAX: usize = 64 * 1024;
/// Longest name of a runtime event.
pub const NAME_MAX: usize = 128;
const RUNTIME_EVENT: u32 = 0x0800_0001;

/// Register 3 as the log says it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rtmr3 {
    /// What the register must contain.
    pub digest: [u8; 48],
    /// The events behind it, in order.
    pub events: Vec<Event>,
}

/// One runtime event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Name.
    pub name: String,
    /// Bytes.
    pub payload: Vec<u8>,
}

/// What the system measured about itself before the application ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The app.
    pub app_id: [u8; 20],
    /// SHA-256 of the compose text.
    pub compose_hash: [u8; 32],
    /// The instance; `None` if the compose text asks for none.
    pub instance_id: Option<[u8; 20]>,
    /// JSON `{"name","id"}`: who keeps the keys.
    pub key_provider: String,
}

/// Why a log proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogRefused {
    /// Too long, or no JSON array of events.
    #[error(
        "expected a JSON array of at most {EVENTS_MAX} events in {LOG_MAX} bytes as event log, found {found}"
    )]
    Shape {
        /// What is there.
        found: String,
    },
    /// One event breaks a rule.
    #[error("expected {expected} in event {index} of the event log, found {found}")]
    Event {
        /// Its place in the log.
        index: usize,
        /// The rule.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A given digest is not the one of name and payload.
    #[error(
        "expected digest {expected} for event {index} ({name:?}) of the event log, found {found}"
    )]
    Digest {
        /// Its place in the log.
        index: usize,
        /// Its name.
        name: String,
        /// Recomputed.
        expected: String,
        /// Given.
        found: String,
    },
    /// A system event is missing or there twice.
    #[error("expected the event {name:?} exactly once before system-ready, found it {found} times")]
    Count {
        /// The name.
        name: &'static str,
        /// How often.
        found: usize,
    },
    /// A system event has a payload of another length.
    #[error("expected {expected} bytes in the event {name:?}, found {found}")]
    Payload {
        /// The name.
        name: &'static str,
        /// The length.
        expected: usize,
        /// Its length.
        found: usize,
    },
}

#[derive(Deserialize)]
struct Line {
    imr: u32,
    event_type: u32,
    digest: String,
    event: String,
    event_payload: String,
    #[serde(default)]
    version: Option<u32>,
    #[serde(default)]
    preimage: Option<String>,
}

/// Replays register 3 from a log; events of the other registers are left to whoever checks the boot.
pub fn replay_rtmr3(json: &str) -> Result<Rtmr3, LogRefused> {
    if json.len() > LOG_MAX {
        return Err(LogRefused::Shape {
            found: format!("{} bytes", json.len()),
        });
    }
    let lines: Vec<Line> = serde_json::from_str(json).map_err(|error| LogRefused::Shape {
        found: shorten(&error.to_string()),
    })?;
    if lines.len() > EVENTS_MAX {
        return Err(LogRefused::Shape {
            found: format!("{} events", lines.len()),
        });
    }
    let mut rtmr3 = Rtmr3 {
        digest: [0; 48],
        events: Vec::new(),
    };
    for (index, line) in lines.iter().enumerate() {
        match line.imr {
            0..=2 => {}
            3 => {
                let (digest, event) = runtime(index, line)?;
                rtmr3.digest = Sha384::new_with_prefix(rtmr3.digest)
                    .chain_update(digest)
                    .finalize()
                    .into();
                rtmr3.events.push(event);
            }
            other => return Err(rule(index, "a register from 0 to 3", &other.to_string())),
        }
    }
    Ok(rtmr3)
}

impl Rtmr3 {
    /// The identity of the guest, if the log is complete and unambiguous.
    pub fn identity(&self) -> Result<Identity, LogRefused> {
        let ends: Vec<usize> = self
            .events
            .iter()
            .enumerate()
            .filter(|(_, e)| e.name == "system-ready")
            .map(|(at, _)| at)
            .collect();
        let &[end] = &ends[..] else {
            return Err(LogRefused::Count {
                name: "system-ready",
                found: ends.len(),
            });
        };
        let system = self
            .events
            .split_at_checked(end)
            .map_or(&[][..], |(system, _)| system);
        let instance_id = match the(system, "instance-id")? {
            [] => None,
            id => Some(sized("instance-id", id)?),
        };
        Ok(Identity {
            app_id: sized("app-id", the(system, "app-id")?)?,
            compose_hash: sized("compose-hash", the(system, "compose-hash")?)?,
            instance_id,
            key_provider: String::from_utf8_lossy(the(system, "key-provider")?).into_owned(),
        })
    }
}

/// The payload of the one event of this name.
fn the<'a>(system: &'a [Event], name: &'static str) -> Result<&'a [u8], LogRefused> {
    let mut found = system.iter().filter(|event| event.name == name);
    match (found.next(), found.count()) {
        (Some(event), 0) => Ok(&event.payload),
        (first, more) => Err(LogRefused::Count {
            name,
            found: more + usize::from(first.is_some()),
        }),
    }
}

fn sized<const N: usize>(name: &'static str, payload: &[u8]) -> Result<[u8; N], LogRefused> {
    payload.try_into().map_err(|_| LogRefused::Payload {
        name,
        expected: N,
        found: payload.len(),
    })
}

/// The recomputed digest of a line of register 3, and the event in it.
fn runtime(index: usize, line: &Line) -> Result<([u8; 48], Event), LogRefused> {
    if line.event_type != RUNTIME_EVENT {
        return Err(rule(
            index,
            "event type 134217729 in register 3",
            &line.event_type.to_string(),
        ));
    }
    // version 1 writes name and payload behind each other with a colon between: a colon in a name is ambiguous
    if line.event.len() > NAME_MAX
        || line.event.contains(':')
        || line.event.chars().any(char::is_control)
    {
        return Err(rule(
            index,
            "a name without colon and control characters, of at most 128 bytes",
            &line.event,
        ));
    }
    let payload = lower_hex(&line.event_payload)
        .filter(|payload| payload.len() <= PAYLOAD_MAX)
        .ok_or_else(|| {
            rule(
                index,
                "at most 64 KiB of lower-case hex as payload",
                &line.event_payload,
            )
        })?;
    let digest = match line.version {
        None | Some(1) if line.preimage.is_none() => digest_v1(&line.event, &payload),
        Some(2) => {
            let canonical = canonical_v2(&line.event, &line.event_payload);
            if line
                .preimage
                .as_ref()
                .is_some_and(|given| *given != hex::encode(&canonical))
            {
                return Err(rule(
                    index,
                    "the preimage of name and payload",
                    "another one",
                ));
            }
            Sha384::digest(&canonical).into()
        }
        other => {
            return Err(rule(
                index,
                "event version 1 without or 2 with preimage",
                &format!("version {other:?}"),
            ));
        }
    };
    let expected = hex::encode(digest);
    // stripped logs leave the digest of runtime events empty
    if !line.digest.is_empty() && line.digest != expected {
        let found = shorten(&line.digest);
        return Err(LogRefused::Digest {
            index,
            name: line.event.clone(),
            expected,
            found,
        });
    }
    Ok((
        digest,
        Event {
            name: line.event.clone(),
            payload,
        },
    ))
}

/// SHA-384( type as u32 LE ‖ ":" ‖ name ‖ ":" ‖ payload )
fn digest_v1(name: &str, payload: &[u8]) -> [u8; 48] {
    Sha384::new_with_prefix(RUNTIME_EVENT.to_le_bytes())
        .chain_update(b":")
        .chain_update(name)
        .chain_update(b":")
        .chain_update(payload)
        .finalize()
        .into()
}

/// RFC 8785 form of name, payload and type. Names have no control characters, so serde's escapes are those of the RFC.
fn canonical_v2(name: &str, payload_hex: &str) -> Vec<u8> {
    let name = serde_json::Value::from(name);
    format!(r#"{{"name":{name},"payload":"{payload_hex}","type":{RUNTIME_EVENT}}}"#).into_bytes()
}

fn lower_hex(text: &str) -> Option<Vec<u8>> {
    let lower = text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if lower { hex::decode(text).ok() } else { None }
}

fn rule(index: usize, expected: &'static str, found: &str) -> LogRefused {
    LogRefused::Event {
        index,
        expected,
        found: shorten(found),
    }
}

fn shorten(text: &str) -> String {
    text.chars()
        .take(100)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_log_is_quoted_in_short() {
        let text = format!("[\"{}\"]", "A".repeat(100_000));
        let refused = replay_rtmr3(&text).unwrap_err().to_string();
        assert!(refused.len() < 500, "{} bytes", refused.len());
    }

    // digests computed with other code (the attestation vectors)
    const APP_ID: &str = "67b4be4efed0893cfa2bb1d35dca209ad8348b4c97f980807bcde8b9a0f26398dd0923d6eccb5aa2096d98046da8740f";
    const COMPOSE_V2: &str = "9dde1673f544faa94b921825209593ddde08d0baf9cd6990175dffaf3081f1bb10311d56de189491feb33842a050ad7b";
    const READY: &str = "1a76b2a80a0be71eae59f80945d876351a7a3fb8e9fd1ff1cede5734aa84ea11fd72b4edfbb6f04e5a85edd114c751bd";
    const AFTER_ALL_THREE: &str = "9258a599f384a24854fcec57742a3c27c83626c55b74f7af14c8a43d93b32d3ecf3ca015aecf3d8e2f33ef73fb2e1ac6";

    fn line(event: &str, payload: &str, digest: &str, more: &str) -> String {
        format!(
            r#"{{"imr":3,"event_type":134217729,"digest":"{digest}","event":"{event}","event_payload":"{payload}"{more}}}"#
        )
    }

    fn replay(lines: &[String]) -> Result<Rtmr3, LogRefused> {
        replay_rtmr3(&format!("[{}]", lines.join(",")))
    }

    #[test]
    fn the_replay_is_the_one_of_other_code_with_given_and_with_stripped_digests() {
        let full = [
            line("app-id", "deadbeef", APP_ID, ""),
            line("compose-hash", "abcd", COMPOSE_V2, r#","version":2"#),
            line("system-ready", "", READY, ""),
        ];
        let stripped = [
            line("app-id", "deadbeef", "", r#","version":1"#),
            line("compose-hash", "abcd", "", r#","version":2"#),
            line("system-ready", "", "", ""),
        ];
        for lines in [full, stripped] {
            assert_eq!(hex::encode(replay(&lines).unwrap().digest), AFTER_ALL_THREE);
        }
    }

    #[test]
    fn a_preimage_must_be_our_own_canonical_bytes() {
        let preimage = hex::encode(r#"{"name":"compose-hash","payload":"abcd","type":134217729}"#);
        let with = |text: &str| {
            line(
                "compose-hash",
                "abcd",
                "",
                &format!(r#","version":2,"preimage":"{text}""#),
            )
        };
        assert!(replay(&[with(&preimage)]).is_ok());
        assert!(matches!(
            replay(&[with("00")]),
            Err(LogRefused::Event { .. })
        ));
    }

    #[test]
    fn events_that_break_a_rule_are_refused() {
        for bad in [
            line("app-id", "deadbee", "", ""),
            line("app-id", "DEADBEEF", "", ""),
            line("app-id", "0xdeadbeef", "", ""),
            line("app:id", "deadbeef", "", ""),
            line("app\\u0000id", "deadbeef", "", ""),
            line(&"n".repeat(NAME_MAX + 1), "", "", ""),
            line("app-id", &"00".repeat(PAYLOAD_MAX + 1), "", ""),
            line("app-id", "deadbeef", "", r#","version":3"#),
            line("app-id", "deadbeef", "", r#","preimage":"00""#),
            line("app-id", "deadbeef", "", "").replace("134217729", "134217730"),
            line("app-id", "deadbeef", "", "").replace(r#""imr":3"#, r#""imr":4"#),
        ] {
            assert!(
                matches!(
                    replay(std::slice::from_ref(&bad)),
                    Err(LogRefused::Event { .. })
                ),
                "{bad:.100}"
            );
        }
        for digest in [READY, "00", "zz"] {
            assert!(matches!(
                replay(&[line("app-id", "deadbeef", digest, "")]),
                Err(LogRefused::Digest { .. })
            ));
        }
        for shape in ["", "{}", "[1]", "[{}]", "[", &" ".repeat(LOG_MAX + 1)] {
            assert!(
                matches!(replay_rtmr3(shape), Err(LogRefused::Shape { .. })),
                "{shape:.20}"
            );
        }
        let many = vec![line("e", "", "", ""); EVENTS_MAX + 1];
        assert!(replay(&many[1..]).is_ok());
        assert!(matches!(replay(&many), Err(LogRefused::Shape { .. })));
    }

    fn boot() -> Vec<String> {
        vec![
            line("system-preparing", "", "", ""),
            line("app-id", &"11".repeat(20), "", ""),
            line("compose-hash", &"22".repeat(32), "", ""),
            line("instance-id", &"33".repeat(20), "", ""),
            line("key-provider", "7b7d", "", ""),
            line("system-ready", "", "", ""),
        ]
    }

    fn identity(change: impl FnOnce(&mut Vec<String>)) -> Result<Identity, LogRefused> {
        let mut lines = boot();
        change(&mut lines);
        replay(&lines).unwrap().identity()
    }

    #[test]
    fn identity_is_read_before_system_ready_only() {
        let good = identity(|_| ()).unwrap();
        assert_eq!(
            (good.app_id, good.compose_hash, good.instance_id),
            ([0x11; 20], [0x22; 32], Some([0x33; 20]))
        );
        assert_eq!(
            identity(|log| log.push(line("compose-hash", &"99".repeat(32), "", ""))),
            Ok(good)
        );
        let moved = identity(|log| {
            let compose = log.remove(2);
            log.push(compose);
        });
        assert_eq!(
            moved,
            Err(LogRefused::Count {
                name: "compose-hash",
                found: 0
            })
        );
    }

    #[test]
    fn a_name_that_is_there_twice_or_not_at_all_proves_nothing() {
        let twice = identity(|log| log.insert(1, line("app-id", &"99".repeat(20), "", "")));
        assert_eq!(
            twice,
            Err(LogRefused::Count {
                name: "app-id",
                found: 2
            })
        );
        let never_ready = identity(|log| drop(log.pop()));
        assert_eq!(
            never_ready,
            Err(LogRefused::Count {
                name: "system-ready",
                found: 0
            })
        );
        let ready_again = identity(|log| log.push(line("system-ready", "", "", "")));
        assert_eq!(
            ready_again,
            Err(LogRefused::Count {
                name: "system-ready",
                found: 2
            })
        );
        let short = identity(|log| log[1] = line("app-id", "11", "", ""));
        assert_eq!(
            short,
            Err(LogRefused::Payload {
                name: "app-id",
                expected: 20,
                found: 1
            })
        );
        let none = identity(|log| log[3] = line("instance-id", "", "", ""));
        assert_eq!(none.unwrap().instance_id, None);
    }
}
