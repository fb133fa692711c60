//! One node: configuration, driver loop, sockets, files, clock. The only crate with tasks; it decides
//! nothing that `cluster`, `ledger` and `counter` could decide without it.

pub mod backend;
pub mod book;
pub mod boot;
pub mod clock;
pub mod config;
pub mod control;
pub mod courier;
pub mod desk;
pub mod disk;
pub mod driver;
pub mod errands;
pub mod facts;
mod fixture;
pub mod http;
pub mod lines;
pub mod links;
mod live;
pub mod metrics;
pub mod post;
pub mod run;
mod shown;
mod speak;
pub mod tls;
mod trading;
pub mod udp;
pub mod watcher;
pub mod ways;

pub use config::{Config, Fault, Faults, Origin, SOURCES, Said};
pub use run::{NodeError, run};
