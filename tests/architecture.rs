//! The rules of the house, executed: arrows between crates point down, pure crates stay pure, the pages name what exists,
//! nothing is left undone. Each test reads the tree as text and says file, line and remedy. It judges no behaviour.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test that reads the tree as files

#[path = "architecture/crates.rs"]
mod crates;
#[path = "architecture/image.rs"]
mod image;
#[path = "architecture/pages.rs"]
mod pages;
#[path = "architecture/text.rs"]
mod text;
#[path = "architecture/tree.rs"]
mod tree;
