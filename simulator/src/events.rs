//! The boot event log of a simulated guest and the four registers it replays to.
//!
//! Rule: registers are computed from the events, never the other way round, so log and quote cannot disagree.

use serde::Serialize;
use sha2::{Digest, Sha384};

/// `event_type` of the events that dstack itself measures.
pub const RUNTIME_EVENT: u32 = 0x0800_0001;
const FIRMWARE_EVENT: u32 = 6;

/// One line of the event log as the agent prints it.
#[derive(Clone, Serialize)]
pub struct Event {
    /// Register: 0 to 3.
    pub imr: u8,
    /// [`RUNTIME_EVENT`], or what the firmware says.
    pub event_type: u32,
    /// 48 bytes in hex, or empty in a stripped log.
    pub digest: String,
    /// Name.
    pub event: String,
    /// Bytes in hex.
    pub event_payload: String,
}

/// What RTMR3 of one instance says about it.
pub struct Boot<'a> {
    /// The app.
    pub app_id: &'a [u8; 20],
    /// SHA-256 of the compose text.
    pub compose_hash: &'a [u8; 32],
    /// Empty if the compose text asks for no instance id.
    pub instance_id: &'a [u8],
    /// SHA-256 of the simulated image's list of checksums; measured if a KMS has to judge it.
    pub os_image_hash: Option<&'a [u8; 32]>,
    /// JSON `{"name","id"}`.
    pub key_provider: &'a str,
    /// File system of the disk.
    pub storage_fs: &'a str,
}

/// All events of one boot, in the order in which a guest measures them.
pub fn boot_log(boot: &Boot<'_>) -> Vec<Event> {
    let mut log: Vec<Event> = (0..3).map(firmware).collect();
    log.extend([
        runtime("system-preparing", b""),
        runtime("app-id", boot.app_id),
        runtime("compose-hash", boot.compose_hash),
        runtime("instance-id", boot.instance_id),
        runtime("boot-mr-done", b""),
    ]);
    log.extend(
        boot.os_image_hash
            .map(|hash| runtime("os-image-hash", hash)),
    );
    log.extend([
        runtime("key-provider", boot.key_provider.as_bytes()),
        runtime("storage-fs", boot.storage_fs.as_bytes()),
        runtime("system-ready", b""),
    ]);
    log
}

/// The log as `GetQuote` of a real agent gives it: firmware events without payload, runtime events without digest.
/// A verifier that trusts given digests must fail here as it would on hardware.
pub fn stripped(log: &[Event]) -> Vec<Event> {
    log.iter()
        .cloned()
        .map(|mut event| {
            match event.imr {
                3 => event.digest.clear(),
                _ => event.event_payload.clear(),
            }
            event
        })
        .collect()
}

/// Replays one register: MR ← SHA-384(MR ‖ digest), from 48 zero bytes.
pub fn replay(log: &[Event], imr: u8) -> [u8; 48] {
    log.iter()
        .filter(|event| event.imr == imr)
        .fold([0; 48], |register, event| {
            let digest = hex::decode(&event.digest).expect("this module wrote the digest as hex");
            Sha384::new()
                .chain_update(register)
                .chain_update(digest)
                .finalize()
                .into()
        })
}

fn runtime(name: &str, payload: &[u8]) -> Event {
    let digest = Sha384::new()
        .chain_update(RUNTIME_EVENT.to_le_bytes())
        .chain_update(b":")
        .chain_update(name.as_bytes())
        .chain_update(b":")
        .chain_update(payload)
        .finalize();
    Event {
        imr: 3,
        event_type: RUNTIME_EVENT,
        digest: hex::encode(digest),
        event: name.to_owned(),
        event_payload: hex::encode(payload),
    }
}

fn firmware(imr: u8) -> Event {
    let payload = format!("dstack-simulator firmware, register {imr}, not a machine");
    Event {
        imr,
        event_type: FIRMWARE_EVENT,
        digest: hex::encode(Sha384::digest(&payload)),
        event: String::new(),
        event_payload: hex::encode(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_system_ready_is_the_one_of_real_logs() {
        assert_eq!(
            runtime("system-ready", b"").digest,
            "1a76b2a80a0be71eae59f80945d876351a7a3fb8e9fd1ff1cede5734aa84ea11fd72b4edfbb6f04e5a85edd114c751bd"
        );
    }

    #[test]
    fn only_a_kms_has_the_image_measured_and_the_order_is_that_of_a_boot() {
        let mut boot = Boot {
            app_id: &[1; 20],
            compose_hash: &[2; 32],
            instance_id: &[],
            os_image_hash: Some(&[3; 32]),
            key_provider: "{}",
            storage_fs: "zfs",
        };
        let names = |boot: &Boot<'_>| -> Vec<String> {
            let runtime = boot_log(boot).into_iter().filter(|event| event.imr == 3);
            runtime.map(|event| event.event).collect()
        };
        let with = names(&boot);
        assert_eq!(
            with,
            [
                "system-preparing",
                "app-id",
                "compose-hash",
                "instance-id",
                "boot-mr-done",
                "os-image-hash",
                "key-provider",
                "storage-fs",
                "system-ready"
            ]
        );
        boot.os_image_hash = None;
        let without: Vec<String> = with.into_iter().filter(|n| n != "os-image-hash").collect();
        assert_eq!(names(&boot), without);
    }
}
