//! One node: configuration, driver loop, sockets, files, clock. The only crate with tasks; it decides
//! nothing that `cluster` and `counter` could decide without it.

pub mod backend;
pub mod book;
pub mod boot;
pub mod clock;
pub mod config;
pub mod courier;
pub mod disk;
pub mod driver;
pub mod errands;
pub mod facts;
pub mod http;
pub mod links;
mod live;
pub mod metrics;
pub mod run;
pub mod tls;
pub mod udp;
pub mod watcher;

pub use config::{Config, Fault, Faults, SOURCES, Said};
pub use run::{NodeError, run};
