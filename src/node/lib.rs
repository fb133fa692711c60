//! One node: configuration, driver loop, sockets, files, clock.
