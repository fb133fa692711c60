//! Options that exist for development on dstack's official simulator, and are refused where something is at stake.

use super::resolver::{Resolver, Value};
use crate::fixture::{DEVELOPMENT_CHAIN, NodeName};

impl Resolver<'_> {
    pub(super) fn node_name(&mut self, chain_id: Option<u64>) -> Option<NodeName> {
        let value = self.optional("node-name")?;
        let name = value.text.parse().ok();
        if name.is_none() {
            self.fault(&value, "1 to 32 of a-z, 0-9 and -", "correct the value");
        }
        self.development_only(&value, chain_id);
        name
    }

    pub(super) fn insecure(&mut self, chain_id: Option<u64>) -> bool {
        let Some(value) = self.value("insecure-unattested-peers") else {
            return false;
        };
        match value.text.as_str() {
            "true" => self.development_only(&value, chain_id),
            "false" => {}
            _ => self.fault(&value, "true or false", "correct the value"),
        }
        value.text == "true"
    }

    fn development_only(&mut self, value: &Value, chain_id: Option<u64>) {
        if chain_id.is_some_and(|id| id != DEVELOPMENT_CHAIN) {
            let expected = format!("no such option on chains other than {DEVELOPMENT_CHAIN}");
            let remedy = "leave it out: it is for development on dstack's official simulator";
            self.fault(value, &expected, remedy);
        }
    }
}
