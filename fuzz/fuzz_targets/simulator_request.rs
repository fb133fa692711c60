//! A whole conversation, byte by byte: `D` or `T` (dstack.sock or tappd.sock; lower case: the client does not half-close),
//! then everything that the client sends. Whatever it is, the conversation ends, nothing panics, and what comes back is
//! complete answers of the listed statuses; every JSON answer is JSON.

#![no_main]

use dstack_simulator::Surface;
use libfuzzer_sys::{Corpus, fuzz_target};
use synod_fuzz::{End, answers, converse};

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((first, said)) = input.split_first() else {
        return Corpus::Reject;
    };
    let (surface, end) = match first {
        b'D' => (Surface::Dstack, End::HalfClose),
        b'd' => (Surface::Dstack, End::Open),
        b'T' => (Surface::Tappd, End::HalfClose),
        b't' => (Surface::Tappd, End::Open),
        _ => return Corpus::Reject,
    };
    let heard = converse(surface, said, end);
    let may_omit_bodies = said.windows(4).any(|word| word == b"HEAD");
    for answer in answers(&heard, may_omit_bodies) {
        if answer.kind.starts_with("application/json")
            && !(may_omit_bodies && answer.body.is_empty())
        {
            let parsed = serde_json::from_slice::<serde_json::Value>(&answer.body);
            assert!(
                parsed.is_ok(),
                "expected JSON, found {}",
                answer.body.escape_ascii()
            );
        }
    }
    Corpus::Keep
});
