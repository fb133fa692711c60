//! The methods of the guest agent: arguments in, JSON out. No sockets here.
//!
//! Rule: names, texts and shapes are those of a real agent of version 0.5.11; what is not built yet refuses by name.

use crate::{AGENT_VERSION, events, instance::Instance, keys, quote, spec::EventLog};
use k256::ecdsa::SigningKey;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

/// Where the arguments of a call come from.
pub enum Arguments<'a> {
    /// JSON text of a POST; an empty one means defaults.
    Json(&'a [u8]),
    /// Query of a GET, decoded.
    Query(Vec<(String, String)>),
}

/// An answer: a JSON text, or the text of a 400.
pub type Answer = Result<String, String>;

/// Answers one call.
pub fn call(instance: &Instance, method: &str, arguments: Arguments<'_>) -> Answer {
    match method {
        "GetKey" => get_key(instance, &arguments.read()?),
        "GetQuote" => get_quote(instance, &arguments.read()?),
        "Info" => info(instance),
        "Version" => text(&VersionReply {
            version: AGENT_VERSION,
            rev: "unknown",
        }),
        "EmitEvent" => {
            let EmitEventArgs { event } = arguments.read()?;
            Err(format!(
                "runtime event emission is unavailable in simulator mode: {event}"
            ))
        }
        "GetTlsKey" | "Attest" | "Sign" | "Verify" => Err(format!(
            "{method} is not served by this simulator yet; it comes with the issue \"Guest agent\""
        )),
        _ => Err(format!("Service not found: {method}")),
    }
}

impl Arguments<'_> {
    fn read<T: for<'de> Deserialize<'de> + Default>(self) -> Result<T, String> {
        match self {
            Self::Json([]) => Ok(T::default()),
            Self::Json(body) => serde_json::from_slice(body).map_err(|error| error.to_string()),
            Self::Query(pairs) => {
                let mut object = serde_json::Map::new();
                for (name, value) in pairs {
                    if object.contains_key(&name) {
                        return Err(format!("Multiple values for one key: {name:?}"));
                    }
                    object.insert(name, Value::String(value));
                }
                serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GetKeyArgs {
    path: String,
    purpose: String,
    algorithm: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GetQuoteArgs {
    #[serde(deserialize_with = "lenient_hex")]
    report_data: Vec<u8>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EmitEventArgs {
    event: String,
}

fn get_key(instance: &Instance, args: &GetKeyArgs) -> Answer {
    match args.algorithm.as_str() {
        "" | "secp256k1" | "k256" => {}
        "ed25519" => {
            return Err("ed25519 is not served by this simulator yet; it comes with the issue \"Guest agent\"".into());
        }
        _ => return Err("Unsupported algorithm".into()),
    }
    let secret = instance.key(&args.path);
    let key = SigningKey::from_slice(&*secret).map_err(|_| "Failed to parse k256 key")?;
    let chain = instance.signature_chain(&args.purpose, &keys::compressed(&key));
    text(&GetKeyReply {
        key: hex::encode(*secret),
        signature_chain: chain.map(hex::encode),
    })
}

fn get_quote(instance: &Instance, args: &GetQuoteArgs) -> Answer {
    let mut report_data = [0; 64];
    let Some((to, _)) = report_data.split_at_mut_checked(args.report_data.len()) else {
        return Err("Report data is too long".into());
    };
    to.copy_from_slice(&args.report_data);
    let quote = quote::quote(&instance.world.pki, &instance.measured, &report_data);
    text(&GetQuoteReply {
        quote: hex::encode(quote),
        event_log: match instance.traits.event_log {
            EventLog::Stripped => text(&events::stripped(&instance.log))?,
            EventLog::Full => text(&instance.log)?,
        },
        report_data: hex::encode(report_data),
        vm_config: instance.vm_config(),
    })
}

/// `device_id` is the hash of nothing, as in a real guest, which cannot know its device.
const DEVICE_ID: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn info(instance: &Instance) -> Answer {
    let world = &instance.world;
    let compose_hash = hex::encode(world.compose_hash());
    let os_image_hash = hex::encode(instance.os_image_hash);
    let mr_aggregated = hex::encode(instance.mr_aggregated());
    let [rtmr0, rtmr1, rtmr2, rtmr3] = instance.measured.rtmr.map(hex::encode);
    let tcb_info = TcbInfo {
        mrtd: hex::encode(instance.measured.mr_td),
        rtmr0,
        rtmr1,
        rtmr2,
        rtmr3,
        mr_aggregated: &mr_aggregated,
        os_image_hash: &os_image_hash,
        compose_hash: &compose_hash,
        device_id: DEVICE_ID,
        event_log: &instance.log,
        app_compose: world.compose(),
    };
    text(&InfoReply {
        app_id: hex::encode(world.app_id()),
        instance_id: instance.id.map_or_else(String::new, hex::encode),
        app_cert: "",
        tcb_info: serde_json::to_string_pretty(&tcb_info).map_err(|error| error.to_string())?,
        app_name: world.app_name(),
        device_id: DEVICE_ID,
        mr_aggregated: &mr_aggregated,
        os_image_hash: &os_image_hash,
        key_provider_info: world.key_provider_info(),
        compose_hash: &compose_hash,
        vm_config: instance.vm_config(),
        cloud_vendor: "",
        cloud_product: "",
    })
}

#[derive(Serialize)]
struct VersionReply {
    version: &'static str,
    rev: &'static str,
}

#[derive(Serialize)]
struct GetKeyReply {
    key: String,
    signature_chain: [String; 2],
}

#[derive(Serialize)]
struct GetQuoteReply {
    quote: String,
    event_log: String,
    report_data: String,
    vm_config: String,
}

#[derive(Serialize)]
struct InfoReply<'a> {
    app_id: String,
    instance_id: String,
    app_cert: &'static str,
    tcb_info: String,
    app_name: String,
    device_id: &'static str,
    mr_aggregated: &'a str,
    os_image_hash: &'a str,
    key_provider_info: &'a str,
    compose_hash: &'a str,
    vm_config: String,
    cloud_vendor: &'static str,
    cloud_product: &'static str,
}

#[derive(Serialize)]
struct TcbInfo<'a> {
    mrtd: String,
    rtmr0: String,
    rtmr1: String,
    rtmr2: String,
    rtmr3: String,
    mr_aggregated: &'a str,
    os_image_hash: &'a str,
    compose_hash: &'a str,
    device_id: &'a str,
    event_log: &'a [events::Event],
    app_compose: &'a str,
}

fn text(value: &impl Serialize) -> Answer {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

/// Hex as the agent reads it: any number of leading `0x`, digits of both cases.
fn lenient_hex<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    hex::decode(text.trim_start_matches("0x")).map_err(D::Error::custom)
}
