//! Evidence in, verdict out: what a quote, an event log and a compose text prove together.
//!
//! Rule: pure (no socket, clock, environment or randomness), everything parsed is bounded, and a verdict carries every
//! comparison that was made. **No signature is checked yet**: the certificate chain comes with the Attestation issue,
//! so nothing here can say "verified". The best verdict is `Simulated`, and only where the policy allows a simulator.

pub mod event_log;
pub mod quote;
pub mod report_data;
pub mod verdict;

pub use verdict::{
    Check, Evidence, Expected, Outcome, Policy, Reason, Simulator, Verdict, appraise, own_verdict,
};
