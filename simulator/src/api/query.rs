//! Arguments in a query: `path=a+b&alt_names[0]=x&usage_server_auth=true`.
//!
//! Rule: what serde_qs makes of it, since a real agent reads it with that: names may come in any order, arrays have
//! their index in brackets that are not percent-encoded, a name that comes twice spoils its field, unknown names are
//! ignored. No argument of the agent is an object or a list of lists, so what is inside of those is not kept.

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

const NO_MAP: &str = "Attempted to insert map value into non-map structure";
const NO_SEQUENCE: &str = "Attempted to insert seq value into non-seq structure";

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
        let (name, key, inner) = split(name)?;
        let (name, value) = (decode(name)?, decode(value)?);
        let twice = |name: &str| Level::Spoiled(format!("Multiple values for one key: {name:?}"));
        let level = match (fields.remove(&name), key) {
            (None, Key::Plain) => Level::Flat(value),
            (None, Key::Next) => Level::Listed(vec![value]),
            (None, Key::Index(index)) => Level::Indexed([(index, element(inner, value))].into()),
            (None | Some(Level::Object), Key::Field) => Level::Object,
            (Some(Level::Spoiled(why)), _) => Level::Spoiled(why),
            (Some(Level::Listed(mut list)), Key::Next) => {
                list.push(value);
                Level::Listed(list)
            }
            (Some(Level::Indexed(mut map)), Key::Index(index)) => {
                let level = match (map.remove(&index), element(inner, value)) {
                    (None, new) => new,
                    (Some(Level::Spoiled(why)), _) => Level::Spoiled(why),
                    (Some(Level::Object), Level::Object) => Level::Object,
                    (Some(Level::Indexed(known)), Level::Indexed(_)) => Level::Indexed(known),
                    (Some(_), Level::Object) => Level::Spoiled(NO_MAP.into()),
                    (Some(_), Level::Indexed(_)) => Level::Spoiled(NO_SEQUENCE.into()),
                    (Some(_), _) => twice(&index.to_string()),
                };
                map.insert(index, level);
                Level::Indexed(map)
            }
            (Some(_), Key::Plain) => twice(&name),
            (Some(_), Key::Field) => Level::Spoiled(NO_MAP.into()),
            (Some(_), Key::Next | Key::Index(_)) => Level::Spoiled(NO_SEQUENCE.into()),
        };
        fields.insert(name, level);
    }
    Ok(fields)
}

/// What stands in a list at an index: a value, or a list or an object if brackets follow the index.
fn element(inner: Option<Key>, value: String) -> Level {
    match inner {
        None | Some(Key::Plain) => Level::Flat(value),
        Some(Key::Index(_) | Key::Next) => Level::Indexed(BTreeMap::new()),
        Some(Key::Field) => Level::Object,
    }
}

/// `name`, `name[3]`, `name[]`, `name[of][objects]`: the name, the first brackets and the second ones.
fn split(name: &str) -> Result<(&str, Key, Option<Key>), String> {
    let (name, brackets) = name.split_at(name.find('[').unwrap_or(name.len()));
    if brackets.is_empty() {
        return Ok((name, Key::Plain, None));
    }
    let (key, mut rest) = bracket(brackets)?;
    let mut inner = None;
    while !rest.is_empty() {
        let (key, after) = bracket(rest)?;
        inner.get_or_insert(key);
        rest = after;
    }
    Ok((name, key, inner))
}

/// One pair of brackets, and what follows it.
fn bracket(text: &str) -> Result<(Key, &str), String> {
    let Some(inside) = text.strip_prefix('[') else {
        let found = text.chars().next().unwrap_or_default();
        return Err(format!(
            "Unexpected character: {found:?} found when parsing"
        ));
    };
    let Some((inside, rest)) = inside.split_once(']') else {
        return Err("query string ended before expected".into());
    };
    let key = match inside {
        "" if rest.is_empty() => Key::Next,
        "" => return Err("non-indexed sequence of structs not supported".into()),
        digits if digits.starts_with(|first: char| first.is_ascii_digit()) => Key::Index(
            digits
                .parse()
                .map_err(|error: std::num::ParseIntError| error.to_string())?,
        ),
        _ => Key::Field,
    };
    Ok((key, rest))
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

    #[test]
    fn after_brackets_come_more_of_them_or_the_end() {
        for (query, error) in [
            ("alt_names[0][1", "query string ended before expected"),
            (
                "alt_names[0][1]=x",
                "invalid type: sequence, expected a string",
            ),
            (
                "alt_names[0][]=x&alt_names[0][]=y",
                "invalid type: sequence, expected a string",
            ),
            ("alt_names[0][a]=x", "invalid type: map, expected a string"),
            (
                "alt_names[0]=x&alt_names[0][1]=y",
                "Attempted to insert seq value into non-seq structure",
            ),
            (
                "alt_names[0]=x&alt_names[0][a]=y",
                "Attempted to insert map value into non-map structure",
            ),
            (
                "alt_names[0][1]=x&alt_names[0]=y",
                "Multiple values for one key: \"0\"",
            ),
            (
                "alt_names[0]junk=x",
                "Unexpected character: 'j' found when parsing",
            ),
            (
                "alt_names[0][1]junk=x",
                "Unexpected character: 'j' found when parsing",
            ),
            ("x[y]z=1", "Unexpected character: 'z' found when parsing"),
            (
                "alt_names[]x=1",
                "non-indexed sequence of structs not supported",
            ),
        ] {
            assert_eq!(read(query), Err(error.to_owned()), "{query}");
        }
    }
}
