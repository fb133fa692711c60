//! The Rust hello of the simulator's page, as it stands there.

include!(concat!(env!("OUT_DIR"), "/hello.rs"));
