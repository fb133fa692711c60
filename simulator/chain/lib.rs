//! Development chain: revm behind JSON-RPC, loopback only.
