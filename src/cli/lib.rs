//! The operator's side: command line, up.
