//! Timing that contradicts itself is refused, every fault at once.

use synod_cluster::Settings;

#[test]
fn both_profiles_hold_their_own_rules() {
    assert!(Settings::lan().faults().is_empty());
    assert!(Settings::seed().faults().is_empty());
}

#[test]
fn all_contradictions_are_named_at_once() {
    let broken = Settings {
        heartbeat_ms: 5,
        suspect_ms: 9,
        fail_ms: 9,
        ok_wait_ms: 1,
        ballot_ttl_s: 61,
        ..Settings::lan()
    };
    let faults = broken.faults();
    assert_eq!(faults.len(), 5, "{faults:?}");
    let edge = Settings {
        heartbeat_ms: 10,
        suspect_ms: 20,
        fail_ms: 21,
        ok_wait_ms: 10,
        ballot_ttl_s: 60,
        ..Settings::lan()
    };
    assert!(edge.faults().is_empty());
}
