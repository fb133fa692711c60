//! What a call brings along, in one of three encodings, and the answer in the fitting one.
//!
//! Rule: strict and lenient exactly where a real agent is, down to the words of its errors; they come from the same
//! libraries (serde_json, prost), but for the query, whose reader follows serde_qs.

use super::Answer;
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

/// Where the arguments of a call come from.
#[derive(Clone, Copy)]
pub enum Arguments<'a> {
    /// JSON text of a POST; an empty one means defaults.
    Json(&'a [u8]),
    /// Protobuf message of a POST.
    Protobuf(&'a [u8]),
    /// Query of a GET, as it came.
    Query(&'a str),
}

impl Arguments<'_> {
    /// The arguments as a method wants them.
    pub fn read<T: DeserializeOwned + Message + Default>(&self) -> Result<T, String> {
        match *self {
            Self::Json([]) => Ok(T::default()),
            Self::Json(text) => serde_json::from_slice(text).map_err(|error| refusal(&error, text)),
            Self::Protobuf(bytes) => T::decode(bytes).map_err(|error| error.to_string()),
            Self::Query(query) => super::query::read(query),
        }
    }

    /// An answer in the encoding that this caller understands.
    pub fn encode<T: Serialize + Message>(&self, answer: &T) -> Answer {
        match self {
            Self::Json(_) | Self::Query(_) => {
                serde_json::to_vec(answer).map_err(|error| error.to_string())
            }
            Self::Protobuf(_) => Ok(answer.encode_to_vec()),
        }
    }
}

/// What is wrong with a JSON text. Where a string is no UTF-8, serde_json has come to name the first wrong byte; in the
/// real agent it names the end of the string.
fn refusal(error: &serde_json::Error, text: &[u8]) -> String {
    let message = error.to_string();
    let Some((what, _)) = message
        .split_once(" at line ")
        .filter(|(what, _)| *what == "invalid unicode code point")
    else {
        return message;
    };
    let mut lines = text.split(|byte| *byte == b'\n');
    let line = lines
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default();
    let mut escaped = false;
    let end = line.iter().enumerate().position(|(at, byte)| {
        let ends = *byte == b'"' && !escaped && at >= error.column();
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    let column = end.map_or(error.column(), |at| at + 1);
    format!("{what} at line {} column {column}", error.line())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::messages::GetKeyArgs;

    #[test]
    fn a_string_that_is_no_utf8_is_refused_at_its_end() {
        for (text, column) in [
            (&b"{\"path\":\"\xff\"}"[..], 11),
            (b"{\"path\":\"a\xffbc\"}", 14),
            (b"{\"path\":\"a\xff\\\"c\"}", 15),
            (b"{\"path\":\"a\\\\\xff\\\\\"}", 16),
        ] {
            let error = Arguments::Json(text).read::<GetKeyArgs>().unwrap_err();
            let expected = format!("invalid unicode code point at line 1 column {column}");
            assert_eq!(error, expected, "{}", text.escape_ascii());
        }
    }
}
