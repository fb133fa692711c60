//! Arguments in a query: `path=a+b&alt_names[0]=x&usage_server_auth=true`.
//!
//! Rule: what serde_qs makes of it, since a real agent reads it with that: names may come in any order, arrays have
//! their index in brackets that are not percent-encoded, a name that comes twice spoils its field, unknown names are
//! ignored. No argument of the agent is an object, so what is inside of one is not kept.

use serde::de::{
    DeserializeOwned, Deserializer, IntoDeserializer, Visitor,
    value::{Error, MapDeserializer, SeqDeserializer},
};
use std::collections::BTreeMap;

/// Reads the arguments; the error is the text of the refusal.
pub fn read<T: DeserializeOwned>(query: &str) -> Result<T, String> {
    let fields = parse(query)?;
    T::deserialize(MapDeserializer::new(fields.into_iter()))
        .map_err(|error: Error| error.to_string())
}

/// What a name stands for.
enum Level {
    Flat(String),
    Indexed(BTreeMap<usize, Level>),
    Listed(Vec<String>),
    Object,
    Spoiled(String),
}

/// How the brackets of a name continue it.
enum Key {
    Plain,
    Index(usize),
    Next,
    Field,
}

fn parse(query: &str) -> Result<BTreeMap<String, Level>, String> {
    let mut fields = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, key) = split(name)?;
        let (name, value) = (decode(name)?, decode(value)?);
        let twice = |name: &str| Level::Spoiled(format!("Multiple values for one key: {name:?}"));
        let level = match (fields.remove(&name), key) {
            (None, Key::Plain) => Level::Flat(value),
            (None, Key::Next) => Level::Listed(vec![value]),
            (None, Key::Index(index)) => Level::Indexed([(index, Level::Flat(value))].into()),
            (None | Some(Level::Object), Key::Field) => Level::Object,
            (Some(Level::Spoiled(why)), _) => Level::Spoiled(why),
            (Some(Level::Listed(mut list)), Key::Next) => {
                list.push(value);
                Level::Listed(list)
            }
            (Some(Level::Indexed(mut map)), Key::Index(index)) => {
                let level = match map.contains_key(&index) {
                    true => twice(&index.to_string()),
                    false => Level::Flat(value),
                };
                map.insert(index, level);
                Level::Indexed(map)
            }
            (Some(_), Key::Plain) => twice(&name),
            (Some(_), Key::Field) => {
                Level::Spoiled("Attempted to insert map value into non-map structure".into())
            }
            (Some(_), Key::Next | Key::Index(_)) => {
                Level::Spoiled("Attempted to insert seq value into non-seq structure".into())
            }
        };
        fields.insert(name, level);
    }
    Ok(fields)
}

/// `name`, `name[3]`, `name[]`, `name[of][objects]`.
fn split(name: &str) -> Result<(&str, Key), String> {
    let Some((name, rest)) = name.split_once('[') else {
        return Ok((name, Key::Plain));
    };
    let Some((inside, _)) = rest.split_once(']') else {
        return Err("query string ended before expected".into());
    };
    let key = match inside {
        "" => Key::Next,
        digits if digits.starts_with(|first: char| first.is_ascii_digit()) => Key::Index(
            digits
                .parse()
                .map_err(|error: std::num::ParseIntError| error.to_string())?,
        ),
        _ => Key::Field,
    };
    Ok((name, key))
}

/// Percent-decoding; `+` is a space, and what is no escape stays.
fn decode(text: &str) -> Result<String, String> {
    let bytes = crate::http::percent_decode(text.replace('+', " ").as_bytes());
    std::str::from_utf8(&bytes)
        .map(str::to_owned)
        .map_err(|error| error.to_string())
}

impl IntoDeserializer<'_, Error> for Level {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Bools and numbers are read from their text, everything else as it is.
macro_rules! parsed {
    ($($method:ident: $kind:ty => $visit:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let kind = stringify!($kind);
            match self {
                Self::Flat(text) => match text.parse::<$kind>() {
                    Ok(value) => visitor.$visit(value),
                    Err(error) => Err(custom(error)),
                },
                Self::Indexed(_) => Err(custom(format!("Expected: {kind:?}, got an OrderedSequence"))),
                Self::Listed(_) => Err(custom(format!("Expected: {kind:?}, got a Sequence"))),
                Self::Object => Err(custom(format!("Expected: {kind:?}, got a Map"))),
                Self::Spoiled(why) => Err(custom(why)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Level {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Flat(text) => visitor.visit_string(text),
            Self::Indexed(map) => visitor.visit_seq(SeqDeserializer::new(map.into_values())),
            Self::Listed(list) => visitor.visit_seq(SeqDeserializer::new(list.into_iter())),
            Self::Object => {
                visitor.visit_map(MapDeserializer::new(std::iter::empty::<(String, String)>()))
            }
            Self::Spoiled(why) => Err(custom(why)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Flat(text) if text.is_empty() => visitor.visit_none(),
            level => visitor.visit_some(level),
        }
    }

    parsed!(deserialize_bool: bool => visit_bool, deserialize_u64: u64 => visit_u64);

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 u16 u32 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

fn custom(text: impl std::fmt::Display) -> Error {
    serde::de::Error::custom(text)
}

#[cfg(test)]
mod tests {
    use crate::api::messages::GetTlsKeyArgs;

    fn read(query: &str) -> Result<GetTlsKeyArgs, String> {
        super::read(query)
    }

    #[test]
    fn names_come_in_any_order_and_unknown_ones_are_ignored() {
        let args = read(
            "not_before=7&alt_names[1]=b&x=1&y[z]=2&alt_names[0]=a%2Bb&usage_ra_tls=true&subject=s+t&&not_after=",
        );
        let expected = GetTlsKeyArgs {
            subject: "s t".into(),
            alt_names: vec!["a+b".into(), "b".into()],
            usage_ra_tls: true,
            not_before: Some(7),
            ..GetTlsKeyArgs::default()
        };
        assert_eq!(args, Ok(expected));
        assert_eq!(
            read("alt_names[]=b&alt_names[]=a").unwrap().alt_names,
            ["b", "a"]
        );
        assert_eq!(read(""), Ok(GetTlsKeyArgs::default()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (query, error) in [
            (
                "subject=a&subject=b",
                "Multiple values for one key: \"subject\"",
            ),
            (
                "subject=a&subject=b&subject=c",
                "Multiple values for one key: \"subject\"",
            ),
            ("x=a&x=b", "Multiple values for one key: \"x\""),
            (
                "alt_names[0]=a&alt_names[0]=b",
                "Multiple values for one key: \"0\"",
            ),
            (
                "usage_ra_tls=yes",
                "provided string was not `true` or `false`",
            ),
            ("usage_ra_tls", "provided string was not `true` or `false`"),
            ("not_before=-1", "invalid digit found in string"),
            (
                "alt_names=x",
                "invalid type: string \"x\", expected a sequence",
            ),
            ("subject[0]=x", "invalid type: sequence, expected a string"),
            ("not_before[a]=1", "Expected: \"u64\", got a Map"),
            (
                "alt_names[0]=a&alt_names[]=b",
                "Attempted to insert seq value into non-seq structure",
            ),
            (
                "subject=%ff",
                "invalid utf-8 sequence of 1 bytes from index 0",
            ),
            ("alt_names[0", "query string ended before expected"),
            (
                "alt_names[99999999999999999999]=a",
                "number too large to fit in target type",
            ),
        ] {
            assert_eq!(read(query), Err(error.to_owned()), "{query}");
        }
    }
}
