//! Everyday requests of Stockaj's clients.

use crate::model::Laravel;
use crate::model::generator::fill;

/// A request; its body is sent with Content-Length or in chunks.
#[derive(Clone, Debug)]
pub struct Ordinary {
    pub method: String,
    pub target: String,
    pub fields: Vec<(&'static str, &'static str)>,
    pub body: Vec<u8>,
    pub chunked: bool,
}

impl Ordinary {
    fn new(method: &str, target: impl Into<String>) -> Self {
        let (method, target) = (method.to_owned(), target.into());
        Self { method, target, fields: Vec::new(), body: Vec::new(), chunked: false }
    }

    fn field(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.push((name, value));
        self
    }

    fn body(self, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self.field("Content-Type", content_type) }
    }

    /// The request's bytes, with a token.
    pub fn bytes(&self, token: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: stockaj.example\r\n", self.method, self.target);
        head += &format!("Authorization: Bearer {token}\r\nUser-Agent: python-requests/2.32.3\r\n");
        for (name, value) in &self.fields {
            head += &format!("{name}: {value}\r\n");
        }
        if self.chunked {
            let size = format!("{:x}\r\n", self.body.len());
            let head = head + "Transfer-Encoding: chunked\r\n\r\n" + &size;
            [head.as_bytes(), &self.body, b"\r\n0\r\n\r\n"].concat()
        } else {
            if !self.body.is_empty() || ["POST", "PUT", "PATCH"].contains(&&*self.method) {
                head += &format!("Content-Length: {}\r\n", self.body.len());
            }
            head += "\r\n";
            [head.as_bytes(), &self.body].concat()
        }
    }
}

const IDS: [&str; 16] = [
    "5",
    "0f8fad5b-d9cb-469f-a165-70867728950e",
    "caf%C3%A9",
    "%E6%9D%B1%E4%BA%AC",
    "%F0%9F%9A%B2",
    "a%20b",
    "a+b",
    "a.b.c",
    "5.json",
    "...",
    "100%25",
    "a%2Cb,c",
    "a:b@c",
    "~x-_",
    "a%3Fb%23c",
    "(a)!*'",
];

const QUERIES: [&str; 22] = [
    "",
    "page=2&per_page=50",
    "filter[name]=x",
    "filter%5Bname%5D=x&filter%5Btags%5D%5B%5D=1&filter%5Btags%5D%5B%5D=2",
    "sort=-created_at,name",
    "q=caf%C3%A9%20noir",
    "q=a+b",
    "path=%2Fa%2F..%2Fb",
    "path=/a/../b",
    "url=https://example.org/?a=b",
    "empty=&none",
    "&&a=1&&",
    "a=1&a=2",
    "a.b=1&a%20c=2",
    "q=%25",
    "q=100%",
    "q=;x",
    "q='x'",
    "q=|[]{}^`",
    "_method=DELETE",
    "include=items,items.tags",
    "from=2026-11-25T00:00:00%2B01:00",
];

/// A request with `Accept-Encoding` for a response that nginx compresses.
pub const COMPRESSED: (&str, &str) = ("Accept-Encoding", "gzip, deflate, br");

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// All requests.
pub fn all(laravel: &Laravel) -> Vec<Ordinary> {
    let mut all = Vec::new();
    for (number, (method, template)) in laravel.routes().iter().enumerate() {
        for id in ["5", IDS[number % IDS.len()], IDS[(number + 7) % IDS.len()]] {
            let request = Ordinary::new(method, fill(template, &[id; 4]));
            all.push(match method.as_str() {
                "POST" | "PUT" | "PATCH" => request.body(JSON, r#"{"name": "Bohrhammer", "price": 12.5}"#),
                _ => request,
            });
            if !template.contains('{') {
                break;
            }
        }
        if method == "GET" {
            all.push(Ordinary::new("HEAD", fill(template, &["5"; 4])));
        }
    }
    all.extend(IDS.map(|id| Ordinary::new("GET", format!("/api/v2/items/{id}"))));
    all.extend(QUERIES.map(|query| Ordinary::new("GET", format!("/api/v2/items?{query}"))));
    all.extend(fields());
    all.extend(bodies());
    all.extend(answers());
    all
}

fn fields() -> Vec<Ordinary> {
    let get = || Ordinary::new("GET", "/api/v2/items");
    vec![
        get().field("Accept", JSON),
        get().field("Accept", "text/html, application/xhtml+xml;q=0.9, */*;q=0.8"),
        get().field("Accept-Language", "de-CH, de;q=0.9, en;q=0.5"),
        get().field(COMPRESSED.0, COMPRESSED.1),
        get().field("Origin", "https://shop.example").field("Referer", "https://shop.example/a?b"),
        get().field("X-Requested-With", "XMLHttpRequest"),
        get().field("X-Custom", "caf\u{e9}"),
        get().field("Connection", "keep-alive").field("Keep-Alive", "timeout=5"),
        get().field("Upgrade-Insecure-Requests", "1").field("DNT", "1"),
        get().field("Content-Type", JSON),
        // The map needs an OPTIONS rule, otherwise the gateway refuses it; Laravel responds by itself.
        Ordinary::new("OPTIONS", "/api/v2/tags"),
        Ordinary::new("OPTIONS", "/api/v2/tags")
            .field("Origin", "https://shop.example")
            .field("Access-Control-Request-Method", "POST"),
        // Laravel has no such route either.
        Ordinary::new("GET", "/api/v2/unknown").field("Accept", JSON),
        Ordinary::new("DELETE", "/api/v2/unknown/5"),
        Ordinary::new("GET", "/API/V2/items"),
        // nginx serves this itself, without PHP.
        Ordinary::new("GET", "/api/v2/items/5.php"),
    ]
}

fn bodies() -> Vec<Ordinary> {
    let multipart = "multipart/form-data; boundary=----WebKitFormBoundaryX";
    let part = |head: &str, value: &[u8]| {
        let head = format!("------WebKitFormBoundaryX\r\nContent-Disposition: form-data; {head}\r\n\r\n");
        [head.as_bytes(), value, b"\r\n"].concat()
    };
    let form = |parts: &[Vec<u8>]| [&parts.concat()[..], b"------WebKitFormBoundaryX--\r\n"].concat();
    let binary: Vec<u8> = (0..200_000u32).map(|number| (number * 31 % 251) as u8).collect();
    let upload = form(&[
        part("name=\"name\"", "Bohrhammer é".as_bytes()),
        part("name=\"photo\"; filename=\"a b.png\"\r\nContent-Type: image/png", &binary),
    ]);
    let names = form(&[part("name=\"tags[]\"", b"1"), part("name=\"tags[]\"", b"2")]);
    let large = format!("{{\"text\": \"{}\"}}", "0123456789".repeat(300_000));
    let mut bodies = Vec::new();
    for (method, target) in [
        ("POST", "/api/v2/items"),
        ("PUT", "/api/v2/items/5"),
        ("PATCH", "/api/v2/items/5"),
        ("DELETE", "/api/v2/items/5"),
    ] {
        let request = || Ordinary::new(method, target);
        let sent = vec![
            request(),
            request().body(JSON, "{}"),
            request().body(JSON, r#"{"name":"Bohrhammer é","tags":[1,2],"price":null,"note":"  x  "}"#),
            request().body("application/json; charset=utf-8", "[1,2]"),
            request().body("application/vnd.api+json", r#"{"data":{"id":"5"}}"#),
            request().body(JSON, "not JSON"),
            request().body(FORM, "name=Bohrhammer+%C3%A9&tags%5B%5D=1&tags%5B%5D=2&empty="),
            request().body("text/plain; charset=iso-8859-1", &b"caf\xe9"[..]),
            request().body("application/octet-stream", &binary[..]),
            request().body(multipart, &names[..]),
            request().body(multipart, &upload[..]),
            request().body(JSON, large.as_bytes()),
        ];
        let chunked = sent[1..].iter().map(|it| Ordinary { chunked: true, ..it.clone() }).collect::<Vec<_>>();
        bodies.extend(sent.into_iter().chain(chunked));
    }
    bodies
}

fn answers() -> Vec<Ordinary> {
    const STATUSES: [u16; 40] = [
        200, 201, 202, 203, 206, 207, 226, 299, 300, 301, 305, 400, 401, 402, 403, 404, 405, 406, 408, 409,
        410, 411, 412, 413, 414, 415, 416, 417, 418, 422, 423, 425, 429, 451, 500, 501, 502, 503, 504, 599,
    ];
    let to = |answer: String| Ordinary::new("GET", format!("/api/v2/items/5?answer={answer}"));
    let file = || to("file".to_owned());
    let etag = || to("etag".to_owned());
    let mut answers: Vec<Ordinary> = STATUSES.map(|code| to(format!("status&code={code}"))).into();
    answers.extend([204, 205, 304].map(|code| to(format!("empty&code={code}"))));
    answers.extend([301, 302, 303, 307, 308].map(|code| to(format!("redirect&code={code}"))));
    answers.extend([0, 1, 819, 820, 100_000, 1_000_000].map(|tens| to(format!("bytes&tens={tens}"))));
    answers.extend(["stream", "cookies", "fields"].map(|answer| to(answer.to_owned())));
    answers.extend([
        file(),
        file().field("Range", "bytes=0-9"),
        file().field("Range", "bytes=5-"),
        file().field("Range", "bytes=-5"),
        file().field("Range", "bytes=0-0,2-3"),
        file().field("Range", "bytes=99999999-"),
        file().field("Range", "bytes=0-9").field("If-Range", "\"other\""),
        file().field("If-Modified-Since", "Wed, 01 Jan 2020 00:00:00 GMT"),
        etag(),
        etag().field("If-None-Match", "\"v1\""),
        etag().field("If-None-Match", "W/\"v1\", \"v2\""),
        etag().field("If-None-Match", "*"),
        etag().field("If-None-Match", "\"v2\""),
    ]);
    let to_head: Vec<Ordinary> =
        answers.iter().map(|it| Ordinary { method: "HEAD".to_owned(), ..it.clone() }).collect();
    answers.extend(to_head);
    answers.extend(["status&code=201", "empty&code=204", "redirect&code=303", "cookies"].map(|answer| {
        Ordinary::new("POST", format!("/api/v2/items?answer={answer}")).body(JSON, r#"{"name":"x"}"#)
    }));
    answers
}
