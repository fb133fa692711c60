//! What an answer that cannot be byte-equal must have in common with the recorded one.
//!
//! Rule: the same fields in the same order and of the same kinds, the same lengths where the format fixes them, and
//! every part that does depend on the question alone is equal. Fixture certificates and keys are equal bytes.

use super::cases::{Case, Recorded, Reply};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha384};
use std::{collections::BTreeSet, fmt};
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

/// Compares an answer with a recorded one of the same method; `first` is the first case of the same file, which is
/// recorded in full.
pub fn compare(case: &Case, first: &Case, reply: &Reply) -> Result<(), String> {
    let ours = reply.text()?;
    let (recorded, full) = match &case.answer {
        Recorded::Bytes(bytes) => (
            serde_json::from_slice(bytes).unwrap(),
            Some(bytes.as_slice()),
        ),
        Recorded::Abbreviated(value) => (value.clone(), None),
    };
    want!(!ours.contains('\n'), "expected compact JSON, found {ours}");
    let value: Value = serde_json::from_str(ours).map_err(|error| error.to_string())?;
    if let Some(full) = full {
        let (expected, found) = (skeleton(full)?, skeleton(ours.as_bytes())?);
        want!(
            expected == found,
            "expected the fields {expected}, found {found}"
        );
    }
    match case.method.as_str() {
        "GetQuote" | "TdxQuote" | "RawQuote" => quote(&value, &recorded),
        "Attest" => attestation(&value, &serde_json::from_slice(first.bytes()).unwrap()),
        "Info" => info(&value, &recorded, full.is_some()),
        "GetTlsKey" | "DeriveKey" => certificate(case, &value, &recorded),
        other => Err(format!("{other} has to be byte-equal")),
    }
}

fn quote(ours: &Value, recorded: &Value) -> Result<(), String> {
    let quote = hex_of(&ours["quote"])?;
    let (length, report_data, header) = match &recorded["quote"] {
        Value::String(digits) => (
            digits.len(),
            digits[1136..1264].to_owned(),
            Some(&digits[..24]),
        ),
        short => (
            usize::try_from(short["hex_chars"].as_u64().unwrap()).unwrap(),
            super::cases::text(&short["report_data_bytes_568_to_632"]),
            None,
        ),
    };
    // certificates of another root have other lengths
    want!(
        quote.len() * 2 > 1264 && quote.len() * 2 <= length,
        "expected at most {length} hex digits, found {}",
        quote.len() * 2
    );
    want!(
        hex::encode(&quote[568..632]) == report_data,
        "expected report data {report_data} in the quote"
    );
    let ours_header = hex::encode(&quote[..12]);
    want!(
        header.is_none_or(|header| header[..16] == ours_header[..16]),
        "expected header {header:?}, found {ours_header}"
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
    if let Value::String(log) = &recorded["event_log"] {
        let ours = ours["event_log"].as_str().unwrap();
        let [expected, found] =
            [log, ours].map(|log| serde_json::from_str::<Vec<Value>>(log).unwrap());
        let (expected, found) = (names(&expected), names(&found));
        want!(
            expected == found,
            "expected events {expected:?}, found {found:?}"
        );
    }
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

/// The same MessagePack structure down to the kind of each element.
fn attestation(ours: &Value, first: &Value) -> Result<(), String> {
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
    let chain = |value: &Value| -> Result<Vec<Vec<u8>>, String> {
        let chain = value["certificate_chain"]
            .as_array()
            .ok_or("expected a chain")?;
        let each: Result<Vec<_>, _> = chain.iter().map(pems).collect();
        Ok(each?.concat())
    };
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
    let (a, b) = (
        a.validity().not_after.timestamp(),
        b.validity().not_after.timestamp(),
    );
    match ends_by_default {
        // ten years after each was made
        true => want!(
            (b - a).abs() < 10 * 365 * 86_400 && b > 1_900_000_000,
            "expected the end {a}, found {b}"
        ),
        false => want!(a == b, "expected the end {a}, found {b}"),
    }
    Ok(())
}

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
