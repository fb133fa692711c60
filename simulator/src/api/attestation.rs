//! The versioned attestation (form V1) that `Attest` answers and that certificates hold, and the app info beside it.
//!
//! Rule: MessagePack to the byte as the official simulator of 0.5.11 writes it; a real agent of that version gives
//! SCALE V0 (spec 5.5). Maps come in declared order, quote and report data as arrays of numbers, digests and payloads
//! as binary; the test re-encodes a recorded one. A certificate gets the short form: runtime events only, without
//! digests, because a verifier has to work them out anyway.

use crate::{
    events::{Event, RUNTIME_EVENT},
    instance::Instance,
    quote,
};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

/// SHA-256 of nothing: a guest cannot know its device.
const DEVICE_ID: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// What `Attest` answers: a fresh quote over the report data, and everything that explains it.
pub fn v1(instance: &Instance, report_data: &[u8; 64]) -> Vec<u8> {
    let log = instance.log.iter().map(Logged::whole).collect();
    of_instance(instance, report_data, log)
}

/// The short form, for a certificate.
pub(super) fn stripped(instance: &Instance, report_data: &[u8; 64]) -> Vec<u8> {
    let log = instance.log.iter().filter(|event| is_runtime(event));
    of_instance(instance, report_data, log.map(Logged::stripped).collect())
}

/// What a certificate tells about the app, in the order in which the fields are read.
pub(super) fn app_info(instance: &Instance) -> Vec<u8> {
    let world = &instance.world;
    let key_provider = world.key_provider_info().as_bytes();
    let [rtmr0, rtmr1, rtmr2, _] = &instance.measured.rtmr;
    let mr_system = mr_system(
        &[&instance.measured.mr_td, rtmr0, rtmr1, rtmr2],
        key_provider,
    );
    message_pack(&[
        Bin(&world.app_id()),
        Bin(&world.compose_hash()),
        Bin(instance.id.as_ref().map_or(&[], |id| &id[..])),
        Bin(&DEVICE_ID),
        Bin(&mr_system),
        Bin(&instance.mr_aggregated()),
        Bin(&instance.os_image_hash),
        Bin(key_provider),
    ])
}

/// What does not depend on the app: SHA-256(mrtd ‖ rtmr0..2 ‖ SHA-256(key provider)).
fn mr_system(measured: &[&[u8; 48]; 4], key_provider: &[u8]) -> [u8; 32] {
    measured
        .iter()
        .fold(Sha256::new(), |hash, register| hash.chain_update(register))
        .chain_update(Sha256::digest(key_provider))
        .finalize()
        .into()
}

fn of_instance(instance: &Instance, report_data: &[u8; 64], event_log: Vec<Logged<'_>>) -> Vec<u8> {
    let runtime = instance.log.iter().filter(|event| is_runtime(event));
    message_pack(&Attestation::new(
        &quote::quote(&instance.world.pki, &instance.measured, report_data),
        event_log,
        report_data,
        runtime.map(Runtime::new).collect(),
        &system_config(instance.vm_config()),
    ))
}

fn is_runtime(event: &Event) -> bool {
    event.imr == 3 && event.event_type == RUNTIME_EVENT
}

/// The host's configuration of the guest, as the guest found it. This host has no services to name.
fn system_config(vm_config: String) -> String {
    let config = SystemConfig {
        kms_urls: [],
        gateway_urls: [],
        pccs_url: "",
        docker_registry: "",
        host_api_url: "",
        vm_config,
    };
    serde_json::to_string(&config).expect("texts and empty lists are JSON")
}

fn message_pack<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("a Vec takes every byte, and all lengths are known")
}

#[derive(Serialize)]
struct SystemConfig {
    kms_urls: [&'static str; 0],
    gateway_urls: [&'static str; 0],
    pccs_url: &'static str,
    docker_registry: &'static str,
    host_api_url: &'static str,
    vm_config: String,
}

#[derive(Serialize)]
struct Attestation<'a> {
    version: u8,
    platform: Tagged<Platform<'a>>,
    stack: Tagged<Stack<'a>>,
}

#[derive(Serialize)]
struct Tagged<T> {
    kind: &'static str,
    data: T,
}

#[derive(Serialize)]
struct Platform<'a> {
    quote: &'a [u8],
    event_log: Vec<Logged<'a>>,
}

#[derive(Serialize)]
struct Stack<'a> {
    report_data: &'a [u8],
    runtime_events: Vec<Runtime<'a>>,
    config: &'a str,
}

/// An event with its register.
#[derive(Serialize)]
struct Logged<'a> {
    imr: u8,
    event_type: u32,
    #[serde(serialize_with = "bin")]
    digest: Vec<u8>,
    event: &'a str,
    #[serde(serialize_with = "bin")]
    event_payload: Vec<u8>,
}

/// An event of register 3, by name.
#[derive(Serialize)]
struct Runtime<'a> {
    event: &'a str,
    #[serde(serialize_with = "bin")]
    payload: Vec<u8>,
}

impl<'a> Attestation<'a> {
    fn new(
        quote: &'a [u8],
        event_log: Vec<Logged<'a>>,
        report_data: &'a [u8],
        runtime_events: Vec<Runtime<'a>>,
        config: &'a str,
    ) -> Self {
        Self {
            version: 1,
            platform: Tagged {
                kind: "tdx",
                data: Platform { quote, event_log },
            },
            stack: Tagged {
                kind: "dstack",
                data: Stack {
                    report_data,
                    runtime_events,
                    config,
                },
            },
        }
    }
}

impl<'a> Logged<'a> {
    fn whole(event: &'a Event) -> Self {
        Self {
            imr: event.imr,
            event_type: event.event_type,
            digest: raw(&event.digest),
            event: &event.event,
            event_payload: raw(&event.event_payload),
        }
    }

    fn stripped(event: &'a Event) -> Self {
        Self {
            digest: Vec::new(),
            ..Self::whole(event)
        }
    }
}

impl<'a> Runtime<'a> {
    fn new(event: &'a Event) -> Self {
        Self {
            event: &event.event,
            payload: raw(&event.event_payload),
        }
    }
}

fn raw(hex_text: &str) -> Vec<u8> {
    hex::decode(hex_text).expect("the event log is written as hex by this program")
}

struct Bin<'a>(&'a [u8]);

impl Serialize for Bin<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

fn bin<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::Value;
    use std::io::Write as _;

    #[derive(Deserialize)]
    struct Seen {
        version: u8,
        platform: SeenTagged<SeenPlatform>,
        stack: SeenTagged<SeenStack>,
    }

    #[derive(Deserialize)]
    struct SeenTagged<T> {
        kind: String,
        data: T,
    }

    #[derive(Deserialize)]
    struct SeenPlatform {
        quote: Vec<u8>,
        event_log: Vec<SeenEvent>,
    }

    #[derive(Deserialize)]
    struct SeenEvent {
        imr: u8,
        event_type: u32,
        digest: Vec<u8>,
        event: String,
        event_payload: Vec<u8>,
    }

    #[derive(Deserialize)]
    struct SeenStack {
        report_data: Vec<u8>,
        runtime_events: Vec<SeenRuntime>,
        config: String,
    }

    #[derive(Deserialize)]
    struct SeenRuntime {
        event: String,
        payload: Vec<u8>,
    }

    /// A recording, or nothing (said on stderr; an error in CI).
    fn recording(test: &str, file: &str) -> Option<Value> {
        let dir =
            std::env::var("SYNOD_VECTORS").unwrap_or_else(|_| "../../shared/vectors".to_owned());
        let Ok(text) = std::fs::read_to_string(format!("{dir}/dstack/v0.5.11/{file}")) else {
            assert!(
                std::env::var("SYNOD_CI").is_err(),
                "SYNOD_CI is set and there are no vectors in {dir}"
            );
            writeln!(std::io::stderr(), "SKIPPED {test}: vectors not found").ok();
            return None;
        };
        Some(serde_json::from_str(&text).unwrap())
    }

    fn body(case: &Value) -> Value {
        serde_json::from_str(case["response"]["body_text"].as_str().unwrap()).unwrap()
    }

    #[test]
    fn a_recorded_attestation_is_encoded_again_to_the_same_bytes() {
        let name = "a_recorded_attestation_is_encoded_again_to_the_same_bytes";
        let Some(attest) = recording(name, "attest.json") else {
            return;
        };
        let recorded = raw(body(&attest["cases"][0])["attestation"].as_str().unwrap());
        let seen: Seen = rmp_serde::from_slice(&recorded).unwrap();
        assert_eq!(seen.version, 1);
        assert_eq!((&*seen.platform.kind, &*seen.stack.kind), ("tdx", "dstack"));
        assert_eq!(seen.platform.data.event_log.len(), 33);
        assert_eq!(seen.stack.data.runtime_events.len(), 9);

        // as this program holds events, so that hex, filter and both forms are in the loop
        let events: Vec<Event> = seen.platform.data.event_log.iter().map(held).collect();
        let stack = &seen.stack.data;
        let again = message_pack(&Attestation::new(
            &seen.platform.data.quote,
            events.iter().map(Logged::whole).collect(),
            &stack.report_data,
            events
                .iter()
                .filter(|e| is_runtime(e))
                .map(Runtime::new)
                .collect(),
            &stack.config,
        ));
        assert!(
            again == recorded,
            "{} bytes, recorded {}",
            again.len(),
            recorded.len()
        );
        for (event, runtime) in events
            .iter()
            .filter(|e| is_runtime(e))
            .zip(&stack.runtime_events)
        {
            assert_eq!(event.event, runtime.event);
            assert_eq!(raw(&event.event_payload), runtime.payload);
        }
    }

    fn held(seen: &SeenEvent) -> Event {
        Event {
            imr: seen.imr,
            event_type: seen.event_type,
            digest: hex::encode(&seen.digest),
            event: seen.event.clone(),
            event_payload: hex::encode(&seen.event_payload),
        }
    }

    #[test]
    fn mr_system_is_the_recorded_one() {
        let name = "mr_system_is_the_recorded_one";
        let Some(info) = recording(name, "info.json") else {
            return;
        };
        let info = body(&info["cases"][0]);
        let tcb: Value = serde_json::from_str(info["tcb_info"].as_str().unwrap()).unwrap();
        let register =
            |name: &str| -> [u8; 48] { raw(tcb[name].as_str().unwrap()).try_into().unwrap() };
        let measured = ["mrtd", "rtmr0", "rtmr1", "rtmr2"].map(register);
        let key_provider = info["key_provider_info"].as_str().unwrap();
        // from the certificate in get_tls_key.json, case with_app_info_and_validity
        assert_eq!(
            hex::encode(mr_system(&measured.each_ref(), key_provider.as_bytes())),
            "51ea38f8eee6dc72dbae9b74531ae6d6204295d265dabb4e6c34621a2a1a1197"
        );
    }

    #[test]
    fn the_device_id_is_the_hash_of_nothing() {
        assert_eq!(DEVICE_ID[..], Sha256::digest([])[..]);
    }
}
