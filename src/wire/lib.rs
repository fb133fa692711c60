//! What is said and by whom: ids, frames, ballots, roster.
