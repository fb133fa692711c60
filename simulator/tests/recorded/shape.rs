//! What an answer that cannot be byte-equal must have in common with the recorded one.
//!
//! Rule: the same fields in the same order and of the same kinds, the same lengths where the format fixes them, and
//! every part that does depend on the question alone is equal. Fixture certificates and keys are equal bytes.

use super::cases::{Attested, Case, Names, Recorded, Reply, text};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha384};
use std::{
    collections::BTreeSet,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};
use x509_parser::{
    pem::Pem,
    prelude::{X509Certificate, X509Extension},
};

macro_rules! want {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

/// Compares an answer with a recorded one of the same method; `first` is one that the same agent recorded in full: of
/// the same method, for tappd's quotes of `GetQuote`.
pub fn compare(case: &Case, first: &Case, reply: &Reply) -> Result<(), String> {
    let ours = reply.text()?;
    let (recorded, is_full) = (case.json(), matches!(case.answer, Recorded::Bytes(_)));
    want!(!ours.contains('\n'), "expected compact JSON, found {ours}");
    let value: Value = serde_json::from_str(ours).map_err(|error| error.to_string())?;
    match &case.answer {
        Recorded::Bytes(full) => {
            let (expected, found) = (skeleton(full)?, skeleton(ours.as_bytes())?);
            want!(
                expected == found,
                "expected the fields {expected}, found {found}"
            );
        }
        Recorded::Abbreviated(_, expected) => {
            let found: Names = serde_json::from_str(ours).map_err(|error| error.to_string())?;
            want!(
                *expected == found,
                "expected the fields {expected:?}, found {found:?}"
            );
        }
    }
    let first = first.json();
    match case.method.as_str() {
        "GetQuote" | "TdxQuote" | "RawQuote" => quote(&value, &recorded, &first, case),
        "Attest" => attestation(&value, &first, case),
        "Info" => info(&value, &recorded, is_full),
        "GetTlsKey" | "DeriveKey" => certificate(case, &value, &recorded),
        other => Err(format!("{other} has to be byte-equal")),
    }
}

fn quote(ours: &Value, recorded: &Value, first: &Value, case: &Case) -> Result<(), String> {
    let quote = hex_of(&ours["quote"])?;
    let (full, full_log) = (text(&first["quote"]), text(&first["event_log"]));
    if let short @ Value::Object(_) = &recorded["quote"] {
        want!(
            short["hex_chars"] == full.len(),
            "the full quote is another one"
        );
    }
    if let (Some(chars), Some(starts)) = (
        recorded["event_log"]["chars"].as_u64(),
        recorded["event_log"]["starts"].as_str(),
    ) {
        want!(
            chars == full_log.len() as u64 && full_log.starts_with(starts),
            "the full log is another one"
        );
    }
    // certificates of another root have other lengths
    want!(
        quote.len() * 2 > 1264 && quote.len() * 2 <= full.len(),
        "expected at most {} hex digits, found {}",
        full.len(),
        quote.len() * 2
    );
    let report_data = case.report_data();
    want!(
        hex::encode(&quote[568..632]) == report_data,
        "expected report data {report_data} in the quote"
    );
    let header = hex::encode(&quote[..8]);
    want!(
        full[..16] == header,
        "expected header {}, found {header}",
        &full[..16]
    );
    for exact in ["report_data", "hash_algorithm", "prefix"] {
        want!(
            ours[exact] == recorded[exact],
            "expected {exact} {}, found {}",
            recorded[exact],
            ours[exact]
        );
    }
    log_of_quote(&ours["event_log"], &quote)?;
    let parse = |log: &str| serde_json::from_str::<Vec<Value>>(log).unwrap();
    let (theirs, ours_log) = (parse(&full_log), parse(&text(&ours["event_log"])));
    let (expected, found) = (names(&theirs), names(&ours_log));
    want!(
        expected == found,
        "expected events {expected:?}, found {found:?}"
    );
    match ours["vm_config"].as_str() {
        Some(config) => vm_config(config),
        None => Ok(()), // tappd has none, and the fields were compared
    }
}

/// The log is compact JSON of complete events, and replays to the four registers of the quote.
fn log_of_quote(log: &Value, quote: &[u8]) -> Result<(), String> {
    let text = log.as_str().ok_or("expected event_log to be a text")?;
    want!(!text.contains('\n'), "expected a compact event log");
    let fields = skeleton(text.as_bytes())?;
    want!(fields == EVENTS, "expected events {EVENTS}, found {fields}");
    let events: Vec<Value> = serde_json::from_str(text).unwrap();
    let mut registers = [[0; 48]; 4];
    for event in &events {
        let register = usize::try_from(event["imr"].as_u64().unwrap()).unwrap();
        let (digest, payload) = (hex_of(&event["digest"])?, hex_of(&event["event_payload"])?);
        want!(digest.len() == 48, "expected 48 bytes of digest in {event}");
        if register == 3 {
            let name = event["event"].as_str().unwrap();
            let digest_of =
                Sha384::digest([b"\x01\x00\x00\x08:", name.as_bytes(), b":", &payload].concat());
            want!(
                digest == digest_of[..] && event["event_type"] == 134_217_729,
                "expected a digest of name and payload in {event}"
            );
        }
        registers[register] = Sha384::digest([&registers[register][..], &digest].concat()).into();
    }
    want!(
        registers.concat() == quote[376..568],
        "expected a log that replays to the quote's registers"
    );
    Ok(())
}

const EVENTS: &str = "[{imr:n,event_type:n,digest:s,event:s,event_payload:s}]";

fn names(log: &[Value]) -> Vec<&str> {
    log.iter()
        .filter(|event| event["imr"] == 3)
        .map(|event| event["event"].as_str().unwrap())
        .collect()
}

/// What the fixture's host says is there; newer hosts say more.
fn vm_config(text: &str) -> Result<(), String> {
    let config: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    want!(
        hex_of(&config["os_image_hash"])?.len() == 32,
        "expected 32 bytes of os_image_hash in {text}"
    );
    want!(
        config["cpu_count"].is_u64() && config["memory_size"].is_u64(),
        "expected numbers in {text}"
    );
    Ok(())
}

/// The same MessagePack structure down to the kind of each element, over the report data of the question.
fn attestation(ours: &Value, first: &Value, case: &Case) -> Result<(), String> {
    Attested::of(ours)?.carries(&case.report_data())?;
    if let Recorded::Bytes(_) = case.answer {
        let recorded = Attested::of(&case.json())?;
        recorded.carries(&case.report_data())?; // so the recorded agent does it, too
    }
    let (ours, first) = (
        hex_of(&ours["attestation"])?,
        hex_of(&first["attestation"])?,
    );
    let structure = |bytes: &[u8]| {
        rmp_serde::from_slice::<Skeleton>(bytes)
            .map(|skeleton| skeleton.0)
            .map_err(|error| error.to_string())
    };
    let (expected, found) = (structure(&first)?, structure(&ours)?);
    want!(expected == found, "expected {expected}, found {found}");
    Ok(())
}

fn info(ours: &Value, recorded: &Value, full: bool) -> Result<(), String> {
    for exact in [
        "app_id",
        "device_id",
        "key_provider_info",
        "cloud_vendor",
        "cloud_product",
    ] {
        let (expected, found) = (&recorded[exact], &ours[exact]);
        want!(
            expected == found,
            "expected {exact} {expected}, found {found}"
        );
    }
    let name = format!("{} (SIMULATED)", recorded["app_name"].as_str().unwrap());
    want!(
        ours["app_name"] == name,
        "expected {name}, found {}",
        ours["app_name"]
    );
    lengths(
        ours,
        &[
            ("instance_id", 20),
            ("mr_aggregated", 32),
            ("os_image_hash", 32),
            ("compose_hash", 32),
        ],
    )?;
    let theirs = full.then(|| recorded["tcb_info"].as_str().unwrap());
    tcb_info(ours, theirs)?;
    if full {
        let (expected, found) = (pems(&recorded["app_cert"])?, pems(&ours["app_cert"])?);
        want!(
            expected.len() == found.len(),
            "expected {} certificates, found {}",
            expected.len(),
            found.len()
        );
        for (expected, found) in expected.iter().zip(&found) {
            same_certificate(expected, found, true)?;
        }
    }
    vm_config(ours["vm_config"].as_str().unwrap_or_default())
}

/// Pretty-printed, and at one with the rest of `Info` and with the fixture's compose text.
fn tcb_info(info: &Value, recorded: Option<&str>) -> Result<(), String> {
    let text = info["tcb_info"]
        .as_str()
        .ok_or("expected tcb_info to be a text")?;
    let ours: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    want!(
        text.starts_with("{\n  \"mrtd\": \""),
        "expected pretty-printed tcb_info"
    );
    let fields = skeleton(text.as_bytes())?;
    want!(
        fields == TCB_INFO,
        "expected tcb_info {TCB_INFO}, found {fields}"
    );
    lengths(
        &ours,
        &[
            ("mrtd", 48),
            ("rtmr0", 48),
            ("rtmr1", 48),
            ("rtmr2", 48),
            ("rtmr3", 48),
        ],
    )?;
    for same in [
        "mr_aggregated",
        "os_image_hash",
        "compose_hash",
        "device_id",
    ] {
        want!(
            ours[same] == info[same],
            "expected one {same}, found {} and {}",
            ours[same],
            info[same]
        );
    }
    let compose = Sha256::digest(ours["app_compose"].as_str().unwrap());
    want!(
        hex_of(&info["compose_hash"])? == compose[..],
        "expected the hash of the compose text"
    );
    let Some(recorded) = recorded else {
        return Ok(());
    };
    want!(
        skeleton(recorded.as_bytes())? == TCB_INFO,
        "the recording has other fields"
    );
    let recorded: Value = serde_json::from_str(recorded).unwrap();
    want!(
        ours["app_compose"] == recorded["app_compose"],
        "expected the fixture's compose text"
    );
    Ok(())
}

fn lengths(object: &Value, fields: &[(&str, usize)]) -> Result<(), String> {
    for (field, length) in fields {
        let found = hex_of(&object[*field])?.len();
        want!(
            found == *length,
            "expected {length} bytes of {field}, found {found}"
        );
    }
    Ok(())
}

const TCB_INFO: &str = "{mrtd:s,rtmr0:s,rtmr1:s,rtmr2:s,rtmr3:s,mr_aggregated:s,os_image_hash:s,compose_hash:s,\
    device_id:s,event_log:[{imr:n,event_type:n,digest:s,event:s,event_payload:s}],app_compose:s}";

fn certificate(case: &Case, ours: &Value, recorded: &Value) -> Result<(), String> {
    let key = |value: &Value| value["key"].as_str().unwrap_or_default().to_owned();
    let (expected, found) = (key(recorded), key(ours));
    want!(
        expected.len() == found.len()
            && expected.lines().count() == found.lines().count()
            && expected[..60] == found[..60],
        "expected a PKCS#8 key like {expected}, found {found}"
    );
    if case.method == "DeriveKey" && !case.body.contains("random_seed") {
        want!(
            expected == found,
            "expected the key of the path, {expected}, found {found}"
        );
    }
    let (expected, found) = (chain(recorded)?, chain(ours)?);
    want!(
        expected.len() == found.len(),
        "expected {} certificates, found {}",
        expected.len(),
        found.len()
    );
    for (expected, found) in expected.iter().zip(&found) {
        same_certificate(expected, found, !case.body.contains("not_after"))?;
    }
    Ok(())
}

/// All certificates of an answer as DER, the leaf first.
pub fn chain(answer: &Value) -> Result<Vec<Vec<u8>>, String> {
    let chain = answer["certificate_chain"]
        .as_array()
        .ok_or("expected a chain")?;
    let each: Result<Vec<_>, _> = chain.iter().map(pems).collect();
    Ok(each?.concat())
}

/// Names, algorithms, validity and extensions are the same; keys, numbers, signatures and attestations are not.
fn same_certificate(expected: &[u8], found: &[u8], ends_by_default: bool) -> Result<(), String> {
    use x509_parser::prelude::FromDer as _;
    let parse = |der| {
        X509Certificate::from_der(der)
            .map(|(_, parsed)| parsed)
            .map_err(|error| error.to_string())
    };
    let (a, b) = (parse(expected)?, parse(found)?);
    if a.is_ca() {
        want!(expected == found, "expected the fixture's CA certificate");
        return Ok(());
    }
    let describe = |c: &X509Certificate<'_>| {
        format!(
            "{:?} from {} for {} signed with {} key {} since {} {:?}",
            c.version(),
            c.issuer(),
            c.subject(),
            c.signature_algorithm.algorithm,
            c.public_key().algorithm.algorithm,
            c.validity().not_before,
            c.extensions().iter().map(extension).collect::<Vec<_>>()
        )
    };
    let (expected, found) = (describe(&a), describe(&b));
    want!(
        expected == found,
        "expected a certificate {expected}, found {found}"
    );
    let expected = match ends_by_default {
        // ten years after each was made, but our clock and the binary's make it at two moments
        true => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            i64::try_from(now.as_secs()).unwrap() + 3650 * DAY
        }
        false => a.validity().not_after.timestamp(),
    };
    let found = b.validity().not_after.timestamp();
    let tolerance = if ends_by_default { DAY } else { 0 };
    want!(
        (found - expected).abs() <= tolerance,
        "expected the end {expected}, found {found}"
    );
    Ok(())
}

const DAY: i64 = 24 * 60 * 60;

/// Number, criticality and content, unless that is one of a kind: key ids, and what dstack puts into its own.
fn extension(one: &X509Extension<'_>) -> String {
    let number = one.oid.to_id_string();
    let varies = number.starts_with("1.3.6.1.4.1.62397.1.")
        || number == "2.5.29.14"
        || number == "2.5.29.35";
    let content = if varies {
        String::new()
    } else {
        hex::encode(one.value)
    };
    format!("{number} {} {content}", one.critical)
}

fn pems(text: &Value) -> Result<Vec<Vec<u8>>, String> {
    let text = text.as_str().ok_or("expected a PEM text")?;
    Pem::iter_from_buffer(text.as_bytes())
        .map(|pem| {
            pem.map(|pem| pem.contents)
                .map_err(|error| error.to_string())
        })
        .collect()
}

fn hex_of(value: &Value) -> Result<Vec<u8>, String> {
    let text = value
        .as_str()
        .ok_or_else(|| format!("expected hex digits, found {value}"))?;
    want!(
        !text.contains(|c: char| c.is_ascii_uppercase()),
        "expected lower-case digits, found {text}"
    );
    hex::decode(text).map_err(|error| format!("{error} in {text}"))
}

fn skeleton(json: &[u8]) -> Result<String, String> {
    serde_json::from_slice::<Skeleton>(json)
        .map(|skeleton| skeleton.0)
        .map_err(|error| error.to_string())
}

/// Names and kinds in their order, without values: `{key:s,chain:[s]}`.
struct Skeleton(String);

impl<'de> Deserialize<'de> for Skeleton {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = Skeleton;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Skeleton, E> {
        Ok(Skeleton("b".into()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Skeleton, E> {
        Ok(Skeleton("n".into()))
    }

    fn visit_str<E>(self, _: &str) -> Result<Skeleton, E> {
        Ok(Skeleton("s".into()))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Skeleton, E> {
        Ok(Skeleton("x".into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Skeleton, A::Error> {
        let mut kinds = BTreeSet::new();
        while let Some(Skeleton(kind)) = seq.next_element()? {
            kinds.insert(kind);
        }
        let kinds: Vec<String> = kinds.into_iter().collect();
        Ok(Skeleton(format!("[{}]", kinds.join("|"))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Skeleton, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, Skeleton(kind))) = map.next_entry::<String, _>()? {
            fields.push(format!("{name}:{kind}"));
        }
        Ok(Skeleton(format!("{{{}}}", fields.join(","))))
    }
}
