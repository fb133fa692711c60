//! `GetQuote` and `Attest`.
//!
//! Rule: report data are not hashed, only filled up with zeros at the right, and are said back, so that a client can
//! compare. Every quote waits for its turn: the driver of a real machine takes no two calls at a time.

use super::messages::{AttestResponse, GetQuoteResponse, RawQuoteArgs};
use crate::{events, instance::Instance, quote, spec::EventLog};

/// A quote with the event log that explains it.
pub async fn get_quote(
    instance: &Instance,
    args: &RawQuoteArgs,
) -> Result<GetQuoteResponse, String> {
    let report_data = padded(&args.report_data)?;
    instance.turn().await?;
    Ok(GetQuoteResponse {
        quote: quote::quote(&instance.world.pki, &instance.measured, &report_data),
        event_log: event_log(instance)?,
        report_data: report_data.to_vec(),
        vm_config: instance.vm_config(),
    })
}

/// The same as one opaque value.
pub async fn attest(instance: &Instance, args: &RawQuoteArgs) -> Result<AttestResponse, String> {
    let report_data = padded(&args.report_data)?;
    instance.turn().await?;
    Ok(AttestResponse {
        attestation: super::attestation::v1(instance, &report_data),
    })
}

/// The event log as JSON, in the form that the instance's traits ask for.
pub fn event_log(instance: &Instance) -> Result<String, String> {
    let log = match instance.traits.event_log {
        EventLog::Stripped => serde_json::to_string(&events::stripped(&instance.log)),
        EventLog::Full => serde_json::to_string(&instance.log),
    };
    log.map_err(|error| error.to_string())
}

fn padded(data: &[u8]) -> Result<[u8; 64], String> {
    let mut padded = [0; 64];
    let (start, _) = padded
        .split_at_mut_checked(data.len())
        .ok_or("Report data is too long")?;
    start.copy_from_slice(data);
    Ok(padded)
}
