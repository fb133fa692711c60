//! Follows the contract: the newest block every quarter of a second, the whole view when it has changed, at
//! once when somebody says that there is more to see. A silent endpoint is reported, never guessed around.

use std::sync::Arc;
use std::time::Duration;
use synod_chain::{Chain, ChainError};
use synod_wire::{ChainView, Hash};
use tokio::sync::{Notify, mpsc};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// However often we are asked: not more than this.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(15);

/// What was seen.
pub enum Sight {
    /// The contract at a newer block.
    View(Box<ChainView>),
    /// The endpoint does not answer; said once until it does.
    Trouble(String),
}

/// Runs until the receiver is gone.
pub async fn follow(chain: Chain, nudges: [Arc<Notify>; 2], sights: mpsc::Sender<Sight>) {
    let mut seen: Option<Hash> = None;
    let mut troubled = false;
    loop {
        let sight = match look(&chain, seen).await {
            Ok(view) => {
                let recovered = std::mem::take(&mut troubled);
                match view {
                    Some(view) => Some(Sight::View(Box::new(view))),
                    None if recovered => {
                        seen = None;
                        continue;
                    }
                    None => None,
                }
            }
            Err(why) => {
                (!std::mem::replace(&mut troubled, true)).then(|| Sight::Trouble(why.to_string()))
            }
        };
        if let Some(Sight::View(view)) = &sight {
            seen = Some(view.block.hash);
        }
        if let Some(sight) = sight
            && sights.send(sight).await.is_err()
        {
            return;
        }
        tokio::time::sleep(LOOK_AT_MOST_EVERY).await;
        let [driver, gate] = &nudges;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = driver.notified() => {}
            () = gate.notified() => {}
        }
    }
}

async fn look(chain: &Chain, seen: Option<Hash>) -> Result<Option<ChainView>, ChainError> {
    if seen == Some(chain.head().await?.hash) {
        return Ok(None);
    }
    chain.view().await.map(Some)
}
