//! From the agent's JSON to types: strict hex, exact lengths, nothing guessed.

use crate::{AgentError, DerivedKey, SecretKey, error::printable};
use serde::Deserialize;
use serde_json::error::Category;
use zeroize::Zeroizing;

/// Where the report data stands in a version 4 quote.
const REPORT_DATA: std::ops::Range<usize> = 568..632;
/// A chain has two links of 65 bytes; what is longer is not one.
const LINKS_MAX: usize = 8;

/// What the agent says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// For example `0.5.11`.
    pub version: String,
    /// Source revision, or `unknown`.
    pub rev: String,
    /// The answer's `server` header, "" if there is none: `dstack guest agent` in a guest, `dstack Simulator` in the
    /// simulators. The agent's own word, like the rest.
    pub server: String,
}

/// What the agent says about this instance. Not evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The app.
    pub app_id: [u8; 20],
    /// This instance; `None` if the compose file has `no_instance_id`, and then all instances look alike.
    pub instance_id: Option<[u8; 20]>,
    /// SHA-256 of the compose file's bytes.
    pub compose_hash: [u8; 32],
    /// Name in the compose file.
    pub app_name: String,
    /// JSON: measurements, event log, compose text.
    pub tcb_info: String,
    /// JSON `{"name","id"}`: who keeps the keys.
    pub key_provider_info: String,
    /// JSON: shape of the virtual machine, as the host says.
    pub vm_config: String,
}

/// A quote over the report data that was asked for, and what is needed to understand it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The quote.
    pub bytes: Vec<u8>,
    /// JSON array of events; on hardware runtime events come without digests.
    pub event_log: String,
    /// JSON: shape of the virtual machine, as the host says.
    pub vm_config: String,
}

#[derive(Deserialize)]
struct VersionJson {
    version: String,
    rev: String,
}

#[derive(Deserialize)]
struct InfoJson {
    app_id: String,
    instance_id: String,
    compose_hash: String,
    app_name: String,
    tcb_info: String,
    key_provider_info: String,
    #[serde(default)] // older agents do not have it
    vm_config: String,
}

#[derive(Deserialize)]
struct KeyJson<'a> {
    key: &'a str, // borrowed: the only copy of the text is the body, which is wiped
    signature_chain: Vec<String>,
}

#[derive(Deserialize)]
struct QuoteJson {
    quote: String,
    event_log: String,
    report_data: String,
    vm_config: String,
}

pub fn version(body: &[u8], server: &str) -> Result<Version, AgentError> {
    let VersionJson { version, rev } = parse("Version", body)?;
    Ok(Version {
        version: printable(&version),
        rev: printable(&rev),
        server: printable(server),
    })
}

pub fn info(body: &[u8]) -> Result<Info, AgentError> {
    const METHOD: &str = "Info";
    let json: InfoJson = parse(METHOD, body)?;
    let instance_id = match json.instance_id.as_str() {
        "" => None,
        id => Some(fixed(METHOD, "instance_id", id)?),
    };
    Ok(Info {
        app_id: fixed(METHOD, "app_id", &json.app_id)?,
        instance_id,
        compose_hash: fixed(METHOD, "compose_hash", &json.compose_hash)?,
        app_name: printable(&json.app_name),
        tcb_info: json.tcb_info,
        key_provider_info: json.key_provider_info,
        vm_config: json.vm_config,
    })
}

pub fn key(body: &[u8]) -> Result<DerivedKey, AgentError> {
    const METHOD: &str = "GetKey";
    let json: KeyJson<'_> = parse(METHOD, body)?;
    let mut bytes = Zeroizing::new([0; 32]);
    // no words about what was found: it may be a key
    let malformed = || AgentError::Malformed {
        method: METHOD,
        expected: "a secp256k1 key as 64 lower-case hex digits in key".to_owned(),
        found: "something else".to_owned(),
    };
    if !is_lower_hex(json.key) {
        return Err(malformed());
    }
    hex::decode_to_slice(json.key.as_bytes(), &mut *bytes).map_err(|_| malformed())?;
    let secret = SecretKey::new(bytes).ok_or_else(malformed)?;
    if json.signature_chain.len() > LINKS_MAX {
        let (expected, found) = (
            format!("at most {LINKS_MAX} links"),
            json.signature_chain.len().to_string(),
        );
        return Err(AgentError::Malformed {
            method: METHOD,
            expected,
            found,
        });
    }
    let links = json
        .signature_chain
        .iter()
        .map(|link| bytes_of(METHOD, "signature_chain", link));
    Ok(DerivedKey {
        secret,
        signature_chain: links.collect::<Result<_, _>>()?,
    })
}

pub fn quote(body: &[u8], asked: &[u8; 64]) -> Result<Quote, AgentError> {
    const METHOD: &str = "GetQuote";
    let json: QuoteJson = parse(METHOD, body)?;
    let echo: [u8; 64] = fixed(METHOD, "report_data", &json.report_data)?;
    same_report_data("echo", asked, &echo)?;
    let bytes = bytes_of(METHOD, "quote", &json.quote)?;
    same_report_data("quote", asked, quoted(&bytes)?)?;
    Ok(Quote {
        bytes,
        event_log: json.event_log,
        vm_config: json.vm_config,
    })
}

/// The report data inside a quote. Of another version we would not know where they stand, and who could hide them
/// behind an unknown version would not be asked at all.
fn quoted(quote: &[u8]) -> Result<&[u8], AgentError> {
    let malformed = |found| AgentError::Malformed {
        method: "GetQuote",
        expected: "a quote of version 4 with a TDX report".to_owned(),
        found,
    };
    match quote {
        [4, 0, ..] => quote
            .get(REPORT_DATA)
            .ok_or_else(|| malformed(format!("{} bytes", quote.len()))),
        [low, high, ..] => Err(malformed(format!(
            "version {}",
            u16::from_le_bytes([*low, *high])
        ))),
        _ => Err(malformed(format!("{} bytes", quote.len()))),
    }
}

/// Compares without stopping at the first difference.
fn same_report_data(place: &'static str, asked: &[u8; 64], found: &[u8]) -> Result<(), AgentError> {
    let difference = asked.iter().zip(found).fold(0, |all, (a, b)| all | (a ^ b));
    if found.len() == asked.len() && difference == 0 {
        return Ok(());
    }
    Err(AgentError::OtherReportData {
        expected: hex::encode(asked),
        found: hex::encode(found),
        place,
    })
}

/// JSON with all fields; says what serde says, except where that could quote a key.
fn parse<'a, T: Deserialize<'a>>(method: &'static str, body: &'a [u8]) -> Result<T, AgentError> {
    serde_json::from_slice(body).map_err(|error| AgentError::Malformed {
        method,
        expected: "the JSON object of the protocol".to_owned(),
        found: match error.classify() {
            Category::Data if method == "GetKey" => {
                "an object with missing or wrong fields".to_owned()
            }
            _ => printable(&error.to_string()),
        },
    })
}

fn fixed<const N: usize>(
    method: &'static str,
    field: &str,
    text: &str,
) -> Result<[u8; N], AgentError> {
    let mut bytes = [0; N];
    let good = is_lower_hex(text) && hex::decode_to_slice(text, &mut bytes).is_ok();
    good.then_some(bytes).ok_or_else(|| AgentError::Malformed {
        method,
        expected: format!("{} lower-case hex digits in {field}", 2 * N),
        found: printable(text),
    })
}

/// Never quotes what it found: it is long, and it came in the same object as a key.
fn bytes_of(method: &'static str, field: &str, text: &str) -> Result<Vec<u8>, AgentError> {
    let malformed = |found| AgentError::Malformed {
        method,
        expected: format!("lower-case hex in {field}"),
        found,
    };
    if let Some(at) = text.bytes().position(|byte| !is_lower_hex_digit(byte)) {
        return Err(malformed(format!(
            "another character at position {at} of {}",
            text.len()
        )));
    }
    hex::decode(text).map_err(|_| malformed(format!("an odd number of digits, {}", text.len())))
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(is_lower_hex_digit)
}

fn is_lower_hex_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}
