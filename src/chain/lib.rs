//! The contract as the node sees it.
