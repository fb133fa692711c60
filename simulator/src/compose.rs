//! What the simulator reads in an `app-compose.json`, and the texts for those who bring none.
//!
//! Rule: fields that the simulator does not know are left alone, as in a guest; what it reads and cannot honour is
//! refused.

use crate::{spec::KeyProvider, world::WorldError};
use serde::Deserialize;

/// A compose text for those who bring none.
pub const DEVELOPMENT_COMPOSE: &str = concat!(
    r#"{"manifest_version":2,"name":"synod-development","runner":"docker-compose","#,
    r#""docker_compose_file":"services: {}\n","key_provider":"kms","kms_enabled":true,"#,
    r#""no_instance_id":false,"public_tcbinfo":true}"#
);

/// Longest compose text that is accepted; the real limit is of this order.
const COMPOSE_MAX: usize = 256 * 1024;

/// File system of the guest's disk, which is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageFs {
    /// `ext4`, which a text that names none gets here.
    #[default]
    Ext4,
    /// `zfs`.
    Zfs,
}

impl StorageFs {
    /// As the event `storage-fs` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Zfs => "zfs",
        }
    }
}

/// What is read in a compose text.
#[derive(Debug, Deserialize)]
pub struct Compose {
    /// Name of the app.
    #[serde(default)]
    pub name: String,
    /// All instances appear with an empty instance id.
    #[serde(default)]
    pub no_instance_id: bool,
    /// File system of the disk.
    #[serde(default)]
    pub storage_fs: Option<StorageFs>,
    #[serde(default)]
    key_provider: Option<KeyProvider>,
    #[serde(default)]
    kms_enabled: bool,
    #[serde(default)]
    local_key_provider_enabled: bool,
}

impl Compose {
    /// Reads a compose text.
    pub fn parse(text: &str) -> Result<Self, WorldError> {
        if text.len() > COMPOSE_MAX {
            return Err(WorldError::Compose(format!(
                "{} bytes, at most {COMPOSE_MAX} are allowed",
                text.len()
            )));
        }
        if !text.trim_start().starts_with('{') {
            return Err(WorldError::Compose(
                "a text that does not start with {".to_owned(),
            ));
        }
        serde_json::from_str(text).map_err(|error| WorldError::Compose(error.to_string()))
    }

    /// The key provider that the text names; `None` if it names none at all.
    pub fn key_provider(&self) -> Option<KeyProvider> {
        match (self.kms_enabled, self.local_key_provider_enabled) {
            _ if self.key_provider.is_some() => self.key_provider,
            (true, _) => Some(KeyProvider::Kms),
            (false, true) => Some(KeyProvider::Local),
            (false, false) => None,
        }
    }
}

/// The development text of an app with this key provider.
pub fn development(provider: KeyProvider) -> String {
    let name = match provider {
        KeyProvider::Kms => return DEVELOPMENT_COMPOSE.to_owned(),
        KeyProvider::Local => "local",
        KeyProvider::Tpm => "tpm",
        KeyProvider::None => "none",
    };
    DEVELOPMENT_COMPOSE.replace(
        r#""key_provider":"kms","kms_enabled":true"#,
        &format!(r#""key_provider":"{name}","kms_enabled":false"#),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_development_text_names_its_key_provider() {
        for provider in [
            KeyProvider::Kms,
            KeyProvider::Local,
            KeyProvider::Tpm,
            KeyProvider::None,
        ] {
            let compose = Compose::parse(&development(provider)).unwrap();
            assert_eq!(compose.key_provider(), Some(provider));
        }
    }

    #[test]
    fn a_text_without_a_key_provider_is_read_by_its_two_switches() {
        for (text, provider) in [
            ("{}", None),
            (r#"{"kms_enabled":true}"#, Some(KeyProvider::Kms)),
            (
                r#"{"local_key_provider_enabled":true}"#,
                Some(KeyProvider::Local),
            ),
            (
                r#"{"key_provider":"tpm","kms_enabled":true}"#,
                Some(KeyProvider::Tpm),
            ),
        ] {
            assert_eq!(Compose::parse(text).unwrap().key_provider(), provider);
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for text in [
            "",
            "[]",
            "services: {}",
            "{",
            r#"{"name":1}"#,
            r#"{"storage_fs":"ntfs"}"#,
            r#"{"key_provider":"sgx"}"#,
        ] {
            let refused = Compose::parse(text);
            assert!(matches!(refused, Err(WorldError::Compose(_))), "{text}");
        }
        let long = format!("{{\"name\":\"{}\"}}", "x".repeat(COMPOSE_MAX));
        assert!(Compose::parse(&long).is_err());
    }
}
