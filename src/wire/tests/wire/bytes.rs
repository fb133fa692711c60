//! Reader and Writer at their edges.

use synod_wire::bytes::{BadBytes, Reader, Writer};
use synod_wire::{Address, ClusterId, Hash};

#[test]
fn numbers_are_big_endian_and_texts_stand_behind_their_length() {
    let bytes = Writer::new()
        .u8(1)
        .u16(0x0203)
        .u64(0x0405_0607_0809_0a0b)
        .text("ab")
        .fixed(&[9])
        .done();
    assert_eq!(
        hex::encode(bytes),
        "01020304050607 08090a0b026162 09".replace(' ', "")
    );
}

#[test]
fn reading_stops_at_the_end_and_says_what_was_missing() {
    let mut r = Reader::new(&[1, 2, 3]);
    assert_eq!(r.u16("a"), Ok(0x0102));
    assert_eq!(
        r.u64("b"),
        Err(BadBytes::Short {
            field: "b",
            needed: 8,
            left: 1
        })
    );
    assert_eq!(
        r.take("c", usize::MAX),
        Err(BadBytes::Short {
            field: "c",
            needed: usize::MAX,
            left: 1
        })
    );
    assert_eq!(r.u8("d"), Ok(3), "a refused read takes nothing");
    assert_eq!(
        r.u8("e"),
        Err(BadBytes::Short {
            field: "e",
            needed: 1,
            left: 0
        })
    );
    assert_eq!(r.end(), Ok(()));
    assert_eq!(
        Reader::new(&[0; 4]).end(),
        Err(BadBytes::Trailing { left: 4 })
    );
}

#[test]
fn a_text_longer_than_what_is_left_or_not_utf8_is_refused() {
    assert_eq!(
        Reader::new(&[3, b'a', b'b']).text("t"),
        Err(BadBytes::Short {
            field: "t",
            needed: 3,
            left: 2
        })
    );
    assert_eq!(
        Reader::new(&[1, 0xff]).text("t"),
        Err(BadBytes::Text { field: "t" })
    );
    assert_eq!(Reader::new(&[0]).text("t"), Ok(String::new()));
    for len in [254, 255] {
        let text = "x".repeat(len);
        assert_eq!(
            Reader::new(&Writer::new().text(&text).done()).text("t"),
            Ok(text)
        );
    }
    assert_eq!(Writer::new().text(&"x".repeat(256)).done().len(), 256);
}

#[test]
fn flags_are_zero_or_one() {
    assert_eq!(Reader::new(&[0]).flag("f"), Ok(false));
    assert_eq!(Reader::new(&[1]).flag("f"), Ok(true));
    assert_eq!(
        Reader::new(&[2]).flag("f"),
        Err(BadBytes::Value {
            field: "f",
            found: 2
        })
    );
}

#[test]
fn hex_has_exactly_the_right_length() {
    let text = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
    let address: Address = text.parse().unwrap();
    assert_eq!(address.to_string(), text.to_lowercase());
    assert_eq!(text[2..].parse::<Address>().unwrap(), address);
    for bad in ["", "0x", "0x5f", &text[..41], &format!("{text}00"), "0xzz"] {
        let refused = bad.parse::<Address>().unwrap_err().to_string();
        assert!(
            refused.starts_with("expected 20 bytes of hex"),
            "{bad}: {refused}"
        );
    }
    let long = "é".repeat(500).parse::<Hash>().unwrap_err();
    assert_eq!(long.found.chars().count(), 80);
}

#[test]
fn a_cluster_is_one_contract_on_one_chain() {
    let ours = ClusterId::of(31_337, Address([0x5f; 20]));
    assert_eq!(
        ours.to_string(),
        "0xdbebb029599a4a991e5d62813ba7de684d735fcf8335fefeea5d85254fe5da92"
    );
    assert_ne!(ours, ClusterId::of(31_338, Address([0x5f; 20])));
    assert_ne!(ours, ClusterId::of(31_337, Address([0x5e; 20])));
}
