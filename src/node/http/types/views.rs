//! The prototype's read-only views in their old shapes. What they say stands in `/status` and `/members` too.

use serde::{Deserialize, Serialize};

/// `GET /peers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// Addresses of the other members' APIs, as far as they have told us.
    pub peers: Vec<String>,
    /// How many.
    pub count: u64,
    /// Unix time.
    pub timestamp: f64,
    /// dstack instance id, hex.
    pub instance_id: String,
}

/// `GET /info`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// dstack instance id, hex.
    pub instance_id: String,
    /// This node's API.
    pub connection_url: String,
    /// Membership contract.
    pub contract_address: String,
    /// RPC endpoint, without secrets.
    pub rpc_url: String,
    /// The contract lists this boot as a member.
    pub registered: bool,
    /// Unix time.
    pub timestamp: f64,
}

/// `GET /wallet-info`. No secret is in it: the salt of the key's path is not shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletInfo {
    /// Always `dstack`: the key comes from the guest agent.
    #[serde(rename = "type")]
    pub kind: String,
    /// Address of the node's wallet; empty until the agent has answered.
    pub address: String,
    /// `synod/wallet/<instance id>/<salt>`, the last part not filled in.
    pub key_path: String,
    /// `synod-v1:<chain id>:<contract>:<instance id>`.
    pub key_purpose: String,
    /// The guest agent's socket.
    pub socket: String,
    /// The address, under the prototype's later name.
    pub host_key_address: String,
    /// dstack instance id, hex.
    pub instance_id: String,
}
