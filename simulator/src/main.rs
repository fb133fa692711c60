//! dstack-simulator
fn main() {}
