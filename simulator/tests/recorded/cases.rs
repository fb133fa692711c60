//! Recorded cases as data, and the raw exchange that repeats one.

use serde_json::Value;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
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
    /// Long fields that repeat are described instead.
    Abbreviated(Value),
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
    fn new(case: &Value) -> Self {
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
            _ => Recorded::Abbreviated(response["body_json_abbreviated"].clone()),
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
            Recorded::Abbreviated(_) => panic!("{} is recorded in short form only", self.name),
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
    json(file)["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(Case::new)
        .collect()
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
