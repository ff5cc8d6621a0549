//! The routes of the stand-in, without I/O.

use std::time::SystemTime;

use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use super::records::{Fields, Records, merge};
use super::tokens::{self, SampleToken};

/// A response: a status and a JSON body.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Option<Value>,
    pub(super) allow: Option<&'static str>,
}

impl Reply {
    fn data(data: impl Into<Value>) -> Self {
        Self { status: StatusCode::OK, body: Some(json!({"data": data.into()})), allow: None }
    }

    pub(super) fn message(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, body: Some(json!({"message": message.into()})), allow: None }
    }

    fn invalid(field: &str) -> Self {
        let message = format!("The {field} field is required.");
        let body = json!({"message": message, "errors": {field: [message]}});
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, body: Some(body), allow: None }
    }

    fn no_record() -> Self {
        Self::message(StatusCode::NOT_FOUND, "Record not found.")
    }
}

/// The state of the stand-in.
#[derive(Debug)]
pub(super) struct Application {
    records: Records,
    start: SystemTime,
}

impl Application {
    pub(super) fn new(start: SystemTime) -> Self {
        Self { records: Records::sample(), start }
    }

    /// Answers a request. Checks the token but no abilities, since the gateway checks those.
    pub(super) fn answer(
        &mut self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        fields: &HeaderMap,
        body: &[u8],
    ) -> Reply {
        let path = path.trim_matches('/');
        let segments: Vec<&str> = path.split('/').collect();
        let Some(allow) = self.allow(&segments) else {
            let message = format!("The route {path} could not be found.");
            return Reply::message(StatusCode::NOT_FOUND, message);
        };
        if method == Method::OPTIONS {
            return Reply { status: StatusCode::OK, body: None, allow: Some(allow) };
        }
        if !allow.split(", ").any(|allowed| allowed == method.as_str()) {
            let message =
                format!("The {method} method is not supported for route {path}. Supported methods: {allow}.");
            let reply = Reply::message(StatusCode::METHOD_NOT_ALLOWED, message);
            return Reply { allow: Some(allow), ..reply };
        }
        let ["api", "v2", resource @ ..] = segments.as_slice() else {
            return Reply { status: StatusCode::OK, body: Some(json!({"status": "up"})), allow: None };
        };
        let Some(token) = self.token(fields) else {
            return Reply::message(StatusCode::UNAUTHORIZED, "Unauthenticated.");
        };
        // As in Laravel, a body that is not a JSON object has no fields.
        let input: Fields = serde_json::from_slice(body).unwrap_or_default();
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        self.resource(method, resource, query, token, input)
    }

    /// The methods of a path in the form of `Allow`; `None` if the path does not exist.
    fn allow(&self, segments: &[&str]) -> Option<&'static str> {
        let ["api", "v2", resource @ ..] = segments else {
            return (segments == ["up"]).then_some("GET, HEAD");
        };
        match resource {
            ["token"] | ["kiosk", "search"] => Some("GET, HEAD"),
            ["kiosk", "scan"] => Some("POST"),
            ["instance"] => Some("GET, HEAD, PUT, PATCH"),
            [name] if self.records.has(name) => Some("GET, HEAD, POST"),
            [name, _] if self.records.has(name) => Some("GET, HEAD, PUT, PATCH, DELETE"),
            [name, _, "restore"] if self.records.has(name) => Some("POST"),
            _ => None,
        }
    }

    fn resource(
        &mut self,
        method: &str,
        resource: &[&str],
        query: Option<&str>,
        token: SampleToken,
        input: Fields,
    ) -> Reply {
        match (method, resource) {
            (_, ["token"]) => Reply::data(token.introspection(self.start)),
            (_, ["kiosk", "scan"]) => self.scan(&input),
            (_, ["kiosk", "search"]) => self.search(query),
            ("GET", ["instance"]) => Reply::data(self.records.instance.clone()),
            (_, ["instance"]) => {
                merge(&mut self.records.instance, input);
                Reply::data(self.records.instance.clone())
            }
            ("GET", [name]) => Reply::data(self.records.all(name).cloned().collect::<Vec<_>>()),
            (_, [name]) => self.create(name, input),
            ("GET", [name, id]) => match self.records.find(name, id) {
                Some(record) => Reply::data(record.clone()),
                None => Reply::no_record(),
            },
            ("DELETE", [name, id]) if self.records.delete(name, id) => {
                Reply { status: StatusCode::NO_CONTENT, body: None, allow: None }
            }
            ("PUT" | "PATCH", [name, id]) => match self.records.find(name, id) {
                Some(record) => {
                    merge(record, input);
                    Reply::data(record.clone())
                }
                None => Reply::no_record(),
            },
            ("POST", [name, id, "restore"]) => match self.records.restore(name, id) {
                Some(record) => Reply::data(record.clone()),
                None => Reply::no_record(),
            },
            _ => Reply::no_record(),
        }
    }

    fn create(&mut self, collection: &str, input: Fields) -> Reply {
        let required = match collection {
            "rentals" => "item_id",
            "webhooks" => "url",
            "notifications" => "title",
            _ => "name",
        };
        if input.get(required).is_none_or(Value::is_null) {
            return Reply::invalid(required);
        }
        match self.records.create(collection, input) {
            Some(record) => Reply { status: StatusCode::CREATED, ..Reply::data(record.clone()) },
            None => Reply::no_record(),
        }
    }

    /// The item with the scanned code, and its rental if it is out.
    fn scan(&self, input: &Fields) -> Reply {
        let Some(code) = input.get("code").and_then(Value::as_str) else {
            return Reply::invalid("code");
        };
        let Some(item) = self.records.all("items").find(|item| item.get("code").is_some_and(|it| it == code))
        else {
            return Reply::no_record();
        };
        let rental = self.records.all("rentals").find(|rental| {
            rental.get("item_id") == item.get("id") && rental.get("status").is_some_and(|it| it == "out")
        });
        Reply::data(json!({"item": item, "rental": rental}))
    }

    /// The items whose name or code contains `q`, ignoring case; all items without `q`.
    fn search(&self, query: Option<&str>) -> Reply {
        let wanted = query
            .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("q=")))
            .unwrap_or_default()
            .to_lowercase();
        let contains = |item: &&Fields| {
            ["name", "code"].iter().any(|name| {
                item.get(*name)
                    .and_then(Value::as_str)
                    .is_some_and(|text| text.to_lowercase().contains(&wanted))
            })
        };
        Reply::data(self.records.all("items").filter(contains).cloned().collect::<Vec<_>>())
    }

    /// The token of the request; `None` if it is unknown or has expired.
    fn token(&self, fields: &HeaderMap) -> Option<SampleToken> {
        let value = fields.get(header::AUTHORIZATION)?.to_str().ok()?;
        let secret = value.strip_prefix("Bearer ")?.trim();
        let token = tokens::ALL.into_iter().find(|token| token.plain_text() == secret)?;
        token.expires_at(self.start).is_none_or(|expiry| SystemTime::now() < expiry).then_some(token)
    }
}
