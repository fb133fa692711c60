//! Routes of the prototype that are not coming back: whoever reached the port spent the operator's money with
//! them. 410, whatever the method, with what to do instead. No command line for the contract exists yet.

use super::problem::Problem;
use axum::http::StatusCode;

const WHY: &str = "it let whoever reached this port spend the operator's money";

/// `/mint-nft`.
pub(super) async fn mint() -> Problem {
    gone(
        "tokens are minted in the contract: its owner calls mintNodeAccess(to, name) with a wallet of their own; \
         there is no synod command for it yet",
    )
}

/// `/register` and `/register-instance`.
pub(super) async fn register() -> Problem {
    gone(
        "a node registers itself when it starts: it calls the contract's register as soon as the token's owner has \
         called adopt(tokenId, wallet, instanceId) and the wallet can pay; GET /status says under \"missing\" what \
         it waits for, with these values; there is no synod command for adopt yet",
    )
}

/// `/register-peer`.
pub(super) async fn register_peer() -> Problem {
    gone(
        "a node's endpoint is a part of the registration that it makes itself when it starts, and the contract has \
         no other function for it: restart the node with another --link-port; getPeerEndpoints(from, limit) and \
         GET /members show the endpoints",
    )
}

fn gone(instead: &str) -> Problem {
    Problem::new(StatusCode::GONE, "This route was dropped").detail(format!("{WHY}; {instead}"))
}
