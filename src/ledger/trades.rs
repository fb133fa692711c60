//! Trades: offers, answers, and who settles them.
