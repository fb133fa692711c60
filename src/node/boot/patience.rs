//! A real agent takes one quote after the other, restarts, and fails now and then: what may pass is asked again, for as
//! long as the operator would wait for an agent that is not there yet.

use super::{BootError, LOOK_AGAIN};
use crate::clock::Clock;
use crate::config::Config;
use crate::facts::{Board, Missing, Phase};
use std::time::Duration;
use synod_agent::{AgentError, Family};

/// The answer, or the first failure that waiting cannot mend, or the last one when the time is over.
pub(super) async fn ask<T>(
    config: &Config,
    board: &Board,
    call: impl AsyncFn() -> Result<T, AgentError>,
) -> Result<T, BootError> {
    let clock = Clock::start();
    let mut waited = false;
    loop {
        let over = Duration::from_millis(clock.now_ms()) >= config.agent_wait;
        match call().await {
            Err(why) if may_pass(&why) && !over => {
                waited = true;
                board.wait(Phase::WaitingForAgent, missing(config, &why));
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(answer) => {
                if waited {
                    board.enter(Phase::WaitingForAgent, "the guest agent answers again");
                }
                return Ok(answer);
            }
            Err(why) => return Err(why.into()),
        }
    }
}

/// Nobody answers, or the driver failed: `Info` takes a quote too. Every other answer would be the same again.
fn may_pass(why: &AgentError) -> bool {
    let quoting = matches!(
        why,
        AgentError::Answered {
            method: "GetQuote" | "Info",
            ..
        }
    );
    quoting || why.family() == Family::Unavailable
}

fn missing(config: &Config, why: &AgentError) -> Missing {
    Missing {
        what: "guest agent",
        expected: "an answer".to_owned(),
        found: why.to_string(),
        remedy: format!("it is asked again for up to {:?}", config.agent_wait),
    }
}
