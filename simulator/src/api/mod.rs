//! The methods of the guest agent: arguments in, answer out. No sockets here.
//!
//! Rule: names, texts and shapes are those of a real agent of version 0.5.11; the table below is all there is.

pub mod arguments;
pub mod attestation;
mod info;
mod keys;
pub mod messages;
mod query;
mod quotes;
pub mod tappd;
pub mod tls;

use crate::instance::Instance;
pub use arguments::Arguments;
use messages::{EmitEventArgs, GetTlsKeyArgs, GetTlsKeyResponse};

/// An answer in the encoding of the question, or the text of a 400.
pub type Answer = Result<Vec<u8>, String>;

/// Answers one call on `dstack.sock`.
pub async fn call(instance: &Instance, method: &str, arguments: Arguments<'_>) -> Answer {
    match method {
        "GetKey" => arguments.encode(&keys::get_key(instance, &arguments.read()?)?),
        "GetQuote" => arguments.encode(&quotes::get_quote(instance, &arguments.read()?).await?),
        "Attest" => arguments.encode(&quotes::attest(instance, &arguments.read()?).await?),
        "GetTlsKey" => arguments.encode(&tls_key(instance, &arguments.read()?).await?),
        "Info" => arguments.encode(&info::info(instance).await?),
        "Sign" => arguments.encode(&keys::sign(instance, &arguments.read()?)?),
        "Verify" => arguments.encode(&keys::verify(&arguments.read()?)?),
        "Version" => arguments.encode(&info::version()),
        "EmitEvent" => {
            let EmitEventArgs { event, .. } = arguments.read()?;
            Err(format!(
                "runtime event emission is unavailable in simulator mode: {event}"
            ))
        }
        _ => Err(format!("Service not found: {method}")),
    }
}

/// A real agent takes a quote for every certificate.
async fn tls_key(instance: &Instance, args: &GetTlsKeyArgs) -> Result<GetTlsKeyResponse, String> {
    instance.turn().await?;
    tls::tls_key(instance, args)
}
