//! Recorded answers of real agents. They live outside the project, named by `SYNOD_VECTORS` or beside it; absent, a test
//! says that it was skipped, and in CI it fails.

use serde_json::Value;
use std::{fs, io::Write};

/// A file of the vectors, or `None` after saying that `test` is skipped.
pub fn bytes(test: &str, file: &str) -> Option<Vec<u8>> {
    let dir =
        std::env::var("SYNOD_VECTORS").unwrap_or_else(|_| "../../../shared/vectors".to_owned());
    let found = fs::read(format!("{dir}/{file}")).ok();
    if found.is_none() {
        assert!(
            std::env::var("SYNOD_CI").unwrap_or_default().is_empty(),
            "SYNOD_CI is set and there is no {dir}/{file}"
        );
        writeln!(
            std::io::stderr(),
            "SKIPPED {test}: vectors not found ({dir}/{file})"
        )
        .ok();
    }
    found
}

/// The same as JSON.
pub fn json(test: &str, file: &str) -> Option<Value> {
    bytes(test, file).map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

/// A text field that has to be there.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no text {field} in {value}"))
}

/// A hex field of known length that has to be there.
pub fn hex<const N: usize>(value: &Value, field: &str) -> [u8; N] {
    let mut bytes = [0; N];
    hex::decode_to_slice(text(value, field), &mut bytes)
        .unwrap_or_else(|error| panic!("{field} of {value}: {error}"));
    bytes
}
