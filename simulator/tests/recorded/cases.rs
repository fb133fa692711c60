//! Recorded cases as data, and the raw exchange that repeats one.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// One recorded question and its recorded answer.
pub struct Case {
    pub name: String,
    pub socket: String,
    pub request: Vec<u8>,
    /// Path without query, for choosing a shape.
    pub method: String,
    pub body: String,
    pub status_line: String,
    pub headers: BTreeMap<String, String>,
    pub answer: Recorded,
}

/// A recorded body.
pub enum Recorded {
    Bytes(Vec<u8>),
    /// Long fields that repeat are described instead; the names stand in the order of the answer.
    Abbreviated(Value, Names),
}

/// An answer as it came.
pub struct Reply {
    pub status_line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> Result<&str, String> {
        std::str::from_utf8(&self.body).map_err(|_| "expected UTF-8".to_owned())
    }

    /// The first answer in these bytes, and what follows it.
    pub fn split(bytes: &[u8]) -> Result<(Self, &[u8]), String> {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .ok_or_else(|| {
                format!(
                    "expected an HTTP answer, found {:?}",
                    String::from_utf8_lossy(bytes)
                )
            })?;
        let head = std::str::from_utf8(&bytes[..end]).map_err(|error| error.to_string())?;
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default().to_owned();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let rest = &bytes[end + 4..];
        let length = headers
            .get("content-length")
            .map_or(0, |length| length.parse().unwrap());
        let (body, rest) = rest.split_at(rest.len().min(length));
        let body = body.to_vec();
        Ok((
            Self {
                status_line,
                headers,
                body,
            },
            rest,
        ))
    }
}

impl Case {
    fn new(case: &Value, names: Option<Names>) -> Self {
        let request = &case["request"];
        let path = text(&request["path"]);
        let body = match (
            &request["body_text"],
            &request["body_hex"],
            &request["body_len"],
        ) {
            (Value::String(text), _, _) => text.clone().into_bytes(),
            (_, Value::String(digits), _) => hex::decode(digits).unwrap(),
            (_, _, Value::Number(length)) => long_body(length.as_u64().unwrap()),
            _ => Vec::new(),
        };
        let mut head = format!(
            "{} {path} HTTP/1.1\r\nHost: localhost\r\n",
            text(&request["method"])
        );
        for (name, value) in request["headers"].as_object().unwrap() {
            head += &format!("{name}: {}\r\n", text(value));
        }
        head += &format!(
            "Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );

        let response = &case["response"];
        let answer = match (&response["body_text"], &response["body_hex"]) {
            (Value::String(text), _) => Recorded::Bytes(text.clone().into_bytes()),
            (_, Value::String(digits)) => Recorded::Bytes(hex::decode(digits).unwrap()),
            _ => Recorded::Abbreviated(response["body_json_abbreviated"].clone(), names.unwrap()),
        };
        let name = path
            .split('?')
            .next()
            .unwrap()
            .rsplit(['/', '.'])
            .next()
            .unwrap();
        Self {
            name: text(&case["name"]),
            socket: text(&request["socket"]),
            method: name.to_owned(),
            body: String::from_utf8_lossy(&body).into_owned(),
            request: [head.into_bytes(), body].concat(),
            status_line: text(&response["status_line"]),
            headers: serde_json::from_value(response["headers"].clone()).unwrap(),
            answer,
        }
    }

    pub fn is_success(&self) -> bool {
        self.status_line == "HTTP/1.1 200 OK"
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.answer {
            Recorded::Bytes(bytes) => bytes,
            Recorded::Abbreviated(..) => panic!("{} is recorded in short form only", self.name),
        }
    }

    /// The recorded answer as JSON, in full or in short form.
    pub fn json(&self) -> Value {
        match &self.answer {
            Recorded::Bytes(bytes) => serde_json::from_slice(bytes).unwrap(),
            Recorded::Abbreviated(value, _) => value.clone(),
        }
    }

    /// A field of the question: JSON object or query.
    pub fn asked(&self, field: &str) -> Option<String> {
        match serde_json::from_str::<Value>(&self.body) {
            Ok(body) => body[field].as_str().map(str::to_owned),
            Err(_) => {
                let request = String::from_utf8_lossy(&self.request);
                let path = request.split(' ').nth(1).unwrap();
                let query = path.split_once('?').map_or("", |(_, query)| query);
                let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                pairs
                    .find(|(name, _)| *name == field)
                    .map(|(_, value)| value.to_owned())
            }
        }
    }

    /// What a quote has to carry: as recorded, and where that is not recorded, as the question said, padded.
    pub fn report_data(&self) -> String {
        match &self.json()["quote"] {
            Value::String(digits) => digits[1136..1264].to_owned(),
            Value::Object(short) => text(&short["report_data_bytes_568_to_632"]),
            _ => {
                let asked = self.asked("report_data").unwrap_or_default();
                format!("{asked:0<128}")
            }
        }
    }
}

/// The recording does not keep this body: "a JSON object with one over-long string value".
fn long_body(length: u64) -> Vec<u8> {
    let around = r#"{"path":""}"#.len();
    format!(
        r#"{{"path":"{}"}}"#,
        "a".repeat(usize::try_from(length).unwrap() - around)
    )
    .into_bytes()
}

/// Where the recordings are, or nothing (which is said on stderr, and is an error in CI).
pub fn vectors(test: &str) -> Option<PathBuf> {
    use std::io::Write as _;
    let dir = std::env::var("SYNOD_VECTORS").unwrap_or_else(|_| "../../shared/vectors".to_owned());
    let dir = PathBuf::from(dir).join("dstack");
    if dir.join("v0.5.11").is_dir() {
        return Some(dir);
    }
    assert!(
        std::env::var("SYNOD_CI").is_err(),
        "SYNOD_CI is set and there are no recordings in {}",
        dir.display()
    );
    writeln!(
        std::io::stderr(),
        "SKIPPED {test}: no recordings in {}",
        dir.display()
    )
    .ok();
    None
}

pub fn json(file: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

pub fn cases(file: PathBuf) -> Vec<Case> {
    #[derive(serde::Deserialize)]
    struct File {
        cases: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        response: Response,
    }
    #[derive(serde::Deserialize)]
    struct Response {
        body_json_abbreviated: Option<Names>,
    }
    let names: File = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let recorded = json(file);
    let recorded = recorded["cases"].as_array().unwrap();
    assert_eq!(recorded.len(), names.cases.len());
    recorded
        .iter()
        .zip(names.cases)
        .map(|(case, names)| Case::new(case, names.response.body_json_abbreviated))
        .collect()
}

/// The field names of a JSON object in their order, which a [`Value`] forgets.
#[derive(Debug, PartialEq)]
pub struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        from.deserialize_map(Walk)
    }
}

/// What an answer of `Attest` says, as far as it is read here.
pub struct Attested {
    pub quote: Vec<u8>,
    pub report_data: Vec<u8>,
}

impl Attested {
    /// Of form V1.
    pub fn of(answer: &Value) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        struct Form {
            version: u8,
            platform: Tagged<Platform>,
            stack: Tagged<Stack>,
        }
        #[derive(serde::Deserialize)]
        struct Tagged<T> {
            data: T,
        }
        #[derive(serde::Deserialize)]
        struct Platform {
            quote: Vec<u8>,
        }
        #[derive(serde::Deserialize)]
        struct Stack {
            report_data: Vec<u8>,
        }
        let bytes = hex::decode(text(&answer["attestation"])).map_err(|error| error.to_string())?;
        let form: Form = rmp_serde::from_slice(&bytes).map_err(|error| error.to_string())?;
        match form.version {
            1 => Ok(Self {
                quote: form.platform.data.quote,
                report_data: form.stack.data.report_data,
            }),
            other => Err(format!("expected version 1, found {other}")),
        }
    }

    /// Quote and attestation say the same.
    pub fn carries(&self, report_data: &str) -> Result<(), String> {
        let found = [
            hex::encode(&self.quote[568..632]),
            hex::encode(&self.report_data),
        ];
        match found == [report_data, report_data] {
            true => Ok(()),
            false => Err(format!(
                "expected report data {report_data} in quote and attestation, found {found:?}"
            )),
        }
    }
}

/// Sends raw bytes and reads until the server closes.
pub async fn exchange(socket: &std::path::Path, request: &[u8]) -> Vec<u8> {
    let conversation = async {
        let (mut from, mut to) = UnixStream::connect(socket).await.unwrap().into_split();
        let mut answer = Vec::new();
        // a server that refuses early may close before it has read everything
        let (_, _) = tokio::join!(to.write_all(request), from.read_to_end(&mut answer));
        answer
    };
    tokio::time::timeout(Duration::from_secs(60), conversation)
        .await
        .expect("an answer and a closed connection within 60 s")
}

pub async fn ask(socket: &std::path::Path, request: &[u8]) -> Result<Reply, String> {
    let answer = exchange(socket, request).await;
    let (reply, rest) = Reply::split(&answer)?;
    match rest {
        [] => Ok(reply),
        more => Err(format!("{} bytes too many after the answer", more.len())),
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
