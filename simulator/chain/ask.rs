//! Questions to the EVM: what would this call answer, how much gas would it take. Nothing is kept.

use crate::evm::{self, Place};
use crate::ledger::{Ledger, Refused};
use alloy::primitives::Bytes;
use alloy::rpc::types::TransactionRequest;
use revm::context::result::{ExecutionResult, Output};

impl Ledger {
    /// `eth_call`: run it at block `at` and forget it.
    pub fn call(&self, request: &TransactionRequest, at: u64) -> Result<Bytes, Refused> {
        let time = self.block(at).map_or(0, |block| block.time);
        let place = Place {
            chain_id: self.chain_id(),
            number: at,
            time,
        };
        outcome(self.ask(request, at, place, evm::gas_cap(request))?).map(|(output, _)| output)
    }

    /// `eth_estimateGas`: the least limit with which it succeeds in the next block.
    pub fn estimate(&self, request: &TransactionRequest, now: u64) -> Result<u64, Refused> {
        let head = self.head();
        let place = Place {
            chain_id: self.chain_id(),
            number: head.number + 1,
            time: now.max(head.time),
        };
        let run = |gas| self.ask(request, head.number, place, gas).and_then(outcome);
        let mut enough = evm::gas_cap(request);
        let (_, used) = run(enough)?;
        // `used` is after refunds, and code may look at what is left: so search.
        let mut too_little = used.saturating_sub(1);
        let guess = used + used / 32 + 2_300;
        if guess < enough && run(guess).is_ok() {
            enough = guess;
        }
        while too_little + 1 < enough {
            let middle = too_little + (enough - too_little) / 2;
            if run(middle).is_ok() {
                enough = middle
            } else {
                too_little = middle
            }
        }
        Ok(enough)
    }

    fn ask(
        &self,
        request: &TransactionRequest,
        at: u64,
        place: Place,
        gas: u64,
    ) -> Result<ExecutionResult, Refused> {
        let answer = evm::ask(self.view(at)?, place, request, gas);
        answer
            .map(|answer| answer.result)
            .map_err(|invalid| Refused::Transaction(format!("cannot be executed: {invalid}")))
    }
}

fn outcome(result: ExecutionResult) -> Result<(Bytes, u64), Refused> {
    let used = result.tx_gas_used();
    match result {
        ExecutionResult::Success {
            output: Output::Call(bytes) | Output::Create(bytes, _),
            ..
        } => Ok((bytes, used)),
        ExecutionResult::Revert { output, .. } => Err(Refused::Reverted(output)),
        ExecutionResult::Halt { reason, .. } => Err(Refused::Halted(format!("{reason:?}"))),
    }
}
