//! The replicated log: engine fence, store, state machine, gate.
