//! `Info` and `Version`.
//!
//! Rule: what is said here is said a second time in event log and quote, and both times from the same place.

use super::messages::{AppInfo, WorkerVersion};
use crate::{AGENT_VERSION, events::Event, instance::Instance};
use serde::Serialize;

/// SHA-256 of nothing: a real guest cannot know its device.
const DEVICE_ID: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Which agent answers.
pub fn version() -> WorkerVersion {
    WorkerVersion {
        version: AGENT_VERSION.into(),
        rev: "unknown".into(),
    }
}

/// Who this instance is, in its own words. Takes a quote, as a real agent does.
pub async fn info(instance: &Instance) -> Result<AppInfo, String> {
    instance.turn().await?;
    let world = &instance.world;
    Ok(AppInfo {
        app_id: world.app_id().to_vec(),
        instance_id: instance.id.map_or_else(Vec::new, |id| id.to_vec()),
        app_cert: app_cert(instance),
        tcb_info: tcb_info(instance)?,
        app_name: world.app_name(),
        device_id: hex::decode(DEVICE_ID).expect("the constant is hex"),
        mr_aggregated: instance.mr_aggregated().to_vec(),
        os_image_hash: instance.os_image_hash.to_vec(),
        key_provider_info: world.key_provider_info().to_owned(),
        compose_hash: world.compose_hash().to_vec(),
        vm_config: instance.vm_config(),
        cloud_vendor: String::new(),
        cloud_product: String::new(),
    })
}

/// A certificate that an agent gets for itself once after its start; empty if there is none.
fn app_cert(instance: &Instance) -> String {
    let make = || super::tls::demo_certificate(instance).unwrap_or_default();
    instance.app_cert.get_or_init(make).clone()
}

/// JSON: the measurements, the whole event log and the compose text.
fn tcb_info(instance: &Instance) -> Result<String, String> {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = instance.measured.rtmr.map(hex::encode);
    let tcb_info = TcbInfo {
        mrtd: hex::encode(instance.measured.mr_td),
        rtmr0,
        rtmr1,
        rtmr2,
        rtmr3,
        mr_aggregated: hex::encode(instance.mr_aggregated()),
        os_image_hash: hex::encode(instance.os_image_hash),
        compose_hash: hex::encode(instance.world.compose_hash()),
        device_id: DEVICE_ID,
        event_log: &instance.log,
        app_compose: instance.world.compose(),
    };
    serde_json::to_string_pretty(&tcb_info).map_err(|error| error.to_string())
}

#[derive(Serialize)]
struct TcbInfo<'a> {
    mrtd: String,
    rtmr0: String,
    rtmr1: String,
    rtmr2: String,
    rtmr3: String,
    mr_aggregated: String,
    os_image_hash: String,
    compose_hash: String,
    device_id: &'static str,
    event_log: &'a [Event],
    app_compose: &'a str,
}
