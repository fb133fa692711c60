//! Errors of the API: RFC 9457 `application/problem+json`, plus the prototype's `error` field.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// One error answer.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    fields: Map<String, Value>,
    retry_after_s: Option<u64>,
}

impl Problem {
    /// `title` is also the `error` field.
    pub fn new(status: StatusCode, title: &str) -> Self {
        let fields = Map::from_iter([
            ("type".to_owned(), Value::from("about:blank")),
            ("title".to_owned(), Value::from(title)),
            ("status".to_owned(), Value::from(status.as_u16())),
            ("error".to_owned(), Value::from(title)),
        ]);
        Self {
            status,
            fields,
            retry_after_s: None,
        }
    }

    /// What was expected, what was found, what to do.
    pub fn detail(self, detail: impl Into<String>) -> Self {
        self.with("detail", Value::from(detail.into()))
    }

    /// Another field.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.fields.insert(name.to_owned(), value);
        self
    }

    /// Try again after this many seconds.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Value::Object(self.fields).to_string();
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind, body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
