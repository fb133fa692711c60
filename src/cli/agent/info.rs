//! `synod agent info`: what the agent says about itself and this instance. Nothing signs any of it.

use super::line;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write;
use synod_agent::{Agent, Info, Version, printable};

const WORD: &str = "The agent's own word: nothing signs it, so it is no evidence.";
/// What `tcb_info` holds besides event log and compose text, in the agent's order.
const MEASUREMENTS: [&str; 7] = [
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mr_aggregated",
    "os_image_hash",
];

pub(super) fn command() -> Command {
    Command::new("info")
        .about("What the agent says about itself and this instance; nothing signs it")
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("As JSON, with event log and compose text"),
        )
}

pub(super) async fn run(
    agent: &Agent,
    args: &ArgMatches,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (version, info) = (agent.version().await?, agent.info().await?);
    if args.get_flag("json") {
        let text = serde_json::to_string_pretty(&as_json(agent, &version, &info))?;
        writeln!(out, "{}", ascii(&text))?;
        return Ok(());
    }
    people(agent, &version, &info, out)
}

fn people(
    agent: &Agent,
    version: &Version,
    info: &Info,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let tcb = parsed(&info.tcb_info);
    writeln!(out, "{WORD}")?;
    line(out, "socket", agent.socket().display())?;
    line(out, "server", or_none(&version.server))?;
    line(
        out,
        "version",
        format!("{} (rev {})", version.version, or_none(&version.rev)),
    )?;
    line(out, "app", or_none(&info.app_name))?;
    line(out, "app id", format!("0x{}", hex::encode(info.app_id)))?;
    line(
        out,
        "instance id",
        match info.instance_id {
            Some(id) => format!("0x{}", hex::encode(id)),
            None => "none: the compose text asks for none, so all instances look alike".to_owned(),
        },
    )?;
    line(out, "compose hash", hex::encode(info.compose_hash))?;
    line(out, "key provider", printable(&info.key_provider_info))?;
    for name in MEASUREMENTS {
        let value = tcb.get(name).and_then(Value::as_str);
        line(
            out,
            name,
            value.map_or_else(|| "not said".to_owned(), |text| or_none(&printable(text))),
        )?;
    }
    line(
        out,
        "event log",
        match tcb.get("event_log").and_then(Value::as_array) {
            Some(events) => format!("{} events (--json shows them)", events.len()),
            None => "not said".to_owned(),
        },
    )?;
    line(
        out,
        "compose text",
        match tcb.get("app_compose").and_then(Value::as_str) {
            Some(text) => format!("{} bytes (--json shows them)", text.len()),
            None => "not said".to_owned(),
        },
    )?;
    line(out, "vm config", printable(&info.vm_config))?;
    Ok(())
}

fn as_json(agent: &Agent, version: &Version, info: &Info) -> Value {
    json!({
        "note": WORD,
        "socket": agent.socket().display().to_string(),
        "server": version.server,
        "version": version.version,
        "rev": version.rev,
        "app_name": info.app_name,
        "app_id": hex::encode(info.app_id),
        "instance_id": info.instance_id.map(hex::encode),
        "compose_hash": hex::encode(info.compose_hash),
        "key_provider_info": parsed(&info.key_provider_info),
        "vm_config": parsed(&info.vm_config),
        "tcb_info": parsed(&info.tcb_info),
    })
}

/// JSON within a text; what is none stays a text.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none" } else { text }.to_owned()
}

/// JSON in ASCII: outside of it a terminal knows control characters too.
fn ascii(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for letter in json.chars() {
        if letter.is_ascii() && letter != '\u{7f}' {
            plain.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            // a String takes everything
            let _ = write!(plain, "\\u{unit:04x}");
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_ascii_says_the_same() {
        let value = json!({"a": "ü\u{9b}\u{7f}\u{1b}😀\n"});
        let text = ascii(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            text.bytes()
                .all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
