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
            Self::Json(text) => serde_json::from_slice(text).map_err(|error| error.to_string()),
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
