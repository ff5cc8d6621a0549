//! Policy test files: requests, and the decisions that are expected of a map.

mod table;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use self::table::{FROM, RawRequest, Row, Table, TableEntry};
use crate::config::ability_map;
use crate::config::language::{
    Decode, Decoder, Diagnostic, FilePath, Key, Named, Node, OnOff, OneOrMore, Report, Severity, Span,
    Spanned, Text, leaf_schema, listed, nearest, schema_of, section,
};
use crate::config::sections::SECRETS;
use crate::config::sections::abilities::decode_ability;
use crate::config::sections::address::Network;
use crate::policy::ability::Abilities;
use crate::policy::decision::{ActiveToken, KnownCaller};
use crate::policy::map::AbilityMap;
use crate::policy::network::{ClientAddress, MOST_NETWORKS, Networks, parse_address};
use crate::policy::refusal::Refusal;
use crate::policy::source_location::SourceLocation;

/// The most checks of a file: each row is multiplied by its callers.
const MAX_CHECKS: usize = 100_000;
/// The name of the sender without a token.
const NOBODY: &str = "nobody";
/// The name for all callers that a row of the table does not list.
const OTHERS: &str = "others";

section! {
    /// A policy test file of stockaj-gateway: requests, and the expected decisions of an ability map.
    PolicyTest {
        /// The gateway.yaml or map file that is tested, relative to this file.
        map: TestedMap,
        /// The abilities of tokens by caller. `cases` and `table` refer to callers by name.
        callers: Named<AbilityList>,
        /// Single requests.
        cases: Option<OneOrMore<Spanned<Case>>>,
        /// The expected decisions by request, such as `GET /api/v2/items`, and caller: one of `callers`, `nobody` for
        /// no token, or `others` for all callers that the row does not list. `from` of a row is the client's address;
        /// without it the address is unknown. A request has a row, or a list of rows for several addresses.
        table: Table,
    }
}

section! {
    /// One or several requests with the same expected decision.
    Case {
        /// A name for reports.
        name: Option<Text>,
        /// A request such as `GET /api/v2/items`, or a list of requests.
        request: OneOrMore<Spanned<RawRequest>>,
        /// The abilities of the token; `[]` is a token without abilities. Without this key and `caller`, there is no token.
        abilities: CaseAbilities,
        /// One of `callers`.
        caller: Option<Spanned<Text>>,
        /// The client's address, such as 10.1.2.3. Without this key it is unknown, and routes with `from` refuse it.
        from: Option<Address>,
        /// The networks that requests of the token must come from. Without this key, it may be used from anywhere.
        allowed_from: Option<Spanned<NetworkList>>,
        /// Whether the token is on the block list, which refuses it on every route that is not public.
        blocked: OnOff = false,
        /// `allow`, or the status of the refusal: 400, 401 or 403.
        expect: Expected,
    }
    exclusive { abilities, caller }
}

/// A valid policy test file.
#[derive(Debug)]
pub struct LoadedTests {
    /// The tests.
    pub tests: PolicyTests,
    /// Warnings about it.
    pub warnings: Report,
}

/// A map and the checks of it.
#[derive(Debug)]
pub struct PolicyTests {
    /// The map that is tested.
    pub map: AbilityMap,
    /// Its file.
    pub map_file: PathBuf,
    /// The checks in the order of the file.
    pub checks: Vec<Check>,
}

/// A request and the expected decision.
#[derive(Debug)]
pub struct Check {
    /// The name of its case.
    pub name: Option<Rc<str>>,
    /// The method as written.
    pub method: Box<str>,
    /// The path as written, optionally with a query.
    pub target: Box<str>,
    /// The sender of the request.
    pub sender: Rc<Sender>,
    /// The client's address.
    pub client: ClientAddress,
    /// The expected decision.
    pub expected: Expected,
    /// Its place in the file.
    pub place: Option<SourceLocation>,
    pub(crate) span: Span,
}

/// The sender of a request.
#[derive(Debug)]
pub struct Sender {
    /// The name in the file.
    pub name: Option<Box<str>>,
    /// The token.
    pub caller: KnownCaller,
}

/// An expected decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The gateway forwards the request.
    Allow,
    /// The gateway refuses the request with this status.
    Refuse(u16),
}

const EXPECTED: [(&str, Expected); 4] = [
    ("allow", Expected::Allow),
    ("400", Expected::Refuse(400)),
    ("401", Expected::Refuse(401)),
    ("403", Expected::Refuse(403)),
];

impl std::fmt::Display for Expected {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Allow => formatter.pad("allow"),
            Self::Refuse(status) => std::fmt::Display::fmt(status, formatter),
        }
    }
}

/// Loads a policy test file and the map that it names. Needs no secret, and only the variables that the files read.
///
/// # Errors
/// A report of every error in both.
pub fn load_tests(path: &Path) -> Result<LoadedTests, Report> {
    let mut decoder = Decoder::new(&|name| std::env::var(name).ok(), &SECRETS);
    let tree = decoder.read_file(path);
    compile_tests(path, tree, decoder)
}

/// Decodes and compiles the document of a policy test file; `None` if it could not be parsed.
pub(crate) fn compile_tests(
    path: &Path,
    tree: Option<Rc<Node>>,
    mut decoder: Decoder<'_>,
) -> Result<LoadedTests, Report> {
    let raw = tree.and_then(|tree| {
        let raw = PolicyTest::decode(&tree, &mut decoder)?;
        if raw.cases.is_none() && raw.table.0.is_empty() {
            decoder.missing(&tree, "cases");
        }
        Some(raw)
    });
    let compiled = raw.map(|raw| {
        let checks = Compiler::new(&raw.callers).checks(&raw, &mut decoder);
        (raw.map, checks)
    });
    let ((TestedMap { map, file }, checks), warnings) = decoder.finish(path, compiled)?;
    Ok(LoadedTests { tests: PolicyTests { map, map_file: file, checks }, warnings })
}

/// The JSON Schema of policy test files.
pub fn tests_schema() -> serde_json::Value {
    schema_of::<PolicyTest>("test", "policy test file of stockaj-gateway")
}

/// Collects the checks of a file.
struct Compiler {
    senders: Vec<Rc<Sender>>,
    nobody: Rc<Sender>,
    checks: Vec<Check>,
    too_many: bool,
}

impl Compiler {
    fn new(callers: &Named<AbilityList>) -> Self {
        let sender = |(key, granted): &(Key, AbilityList)| {
            let caller = KnownCaller::with(granted.0.clone());
            Rc::new(Sender { name: Some(key.text.clone()), caller })
        };
        Self {
            senders: callers.0.iter().map(sender).collect(),
            nobody: Rc::new(Sender { name: None, caller: KnownCaller::Nobody }),
            checks: Vec::new(),
            too_many: false,
        }
    }

    fn checks(mut self, raw: &PolicyTest, decoder: &mut Decoder<'_>) -> Vec<Check> {
        for (key, _) in &raw.callers.0 {
            if [NOBODY, OTHERS, FROM].contains(&&*key.text) {
                let error = Diagnostic::error("reserved caller name")
                    .key(format!("callers.{}", key.text))
                    .at(key.span, "`table` uses this name");
                decoder.record(error);
            }
        }
        let cases = raw.cases.iter().flat_map(|cases| &cases.0);
        for (number, Spanned { value: case, span }) in cases.enumerate() {
            self.add_case(number, case, *span, decoder);
        }
        for entry in &raw.table.0 {
            for row in &entry.rows {
                self.add_row(entry, row, decoder);
            }
        }
        self.checks
    }

    fn add_case(&mut self, number: usize, case: &Case, span: Span, decoder: &mut Decoder<'_>) {
        let sender = match (&case.abilities.0, &case.caller) {
            (Some(abilities), _) => {
                Rc::new(Sender { name: None, caller: KnownCaller::with(abilities.clone()) })
            }
            (None, None) => Rc::clone(&self.nobody),
            (None, Some(caller)) => match self.sender(&caller.value.0) {
                Some(sender) => sender,
                None => {
                    let path = format!("cases[{number}].caller");
                    return decoder.record(self.unknown(&path, &caller.value.0, caller.span));
                }
            },
        };
        let sender = match &case.allowed_from {
            None => sender,
            Some(list) => match &sender.caller {
                KnownCaller::Active(token) => {
                    let token = ActiveToken { allowed_from: Some(list.value.0.clone()), ..token.clone() };
                    Rc::new(Sender { name: sender.name.clone(), caller: KnownCaller::Active(token) })
                }
                _ => {
                    let error = Diagnostic::error("networks without a token")
                        .key(format!("cases[{number}].allowed_from"))
                        .at(list.span, "the case has no token");
                    return decoder.record(error.hint("add `abilities`"));
                }
            },
        };
        let client = ClientAddress::from(case.from.map(|from| from.0));
        let blocked = || Sender { name: None, caller: KnownCaller::Refused(Refusal::Blocked) };
        let sender = if case.blocked.0 { Rc::new(blocked()) } else { sender };
        let name = case.name.as_ref().map(|name| Rc::from(&*name.0));
        let several = case.request.0.len() > 1;
        for request in &case.request.0 {
            let span = if several { request.span } else { span };
            let at = (span, decoder.place(span));
            self.add(name.clone(), &request.value, (&sender, client), case.expect, at, decoder);
        }
    }

    fn add_row(&mut self, entry: &TableEntry, row: &Row, decoder: &mut Decoder<'_>) {
        let client = ClientAddress::from(row.from.map(|from| from.0));
        for (key, expected) in &row.cells {
            let senders: Vec<Rc<Sender>> = match &*key.text {
                OTHERS => {
                    let named = |sender: &Sender| {
                        row.cells.iter().any(|(key, _)| Some(&key.text) == sender.name.as_ref())
                    };
                    self.senders.iter().filter(|sender| !named(sender)).map(Rc::clone).collect()
                }
                name => match self.sender(name) {
                    Some(sender) => vec![sender],
                    None => {
                        decoder.record(self.unknown(&entry.path(), name, key.span));
                        continue;
                    }
                },
            };
            let at = (key.span, decoder.place(key.span));
            for sender in senders {
                self.add(None, &entry.request, (&sender, client), *expected, at.clone(), decoder);
            }
        }
    }

    fn sender(&self, name: &str) -> Option<Rc<Sender>> {
        if name == NOBODY {
            return Some(Rc::clone(&self.nobody));
        }
        self.senders.iter().find(|sender| sender.name.as_deref() == Some(name)).map(Rc::clone)
    }

    fn unknown(&self, path: &str, name: &str, span: Span) -> Diagnostic {
        let known = || self.senders.iter().filter_map(|sender| sender.name.as_deref());
        let hint = match nearest(name, known().chain([NOBODY, OTHERS])) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "define its abilities in `callers`".to_owned(),
        };
        Diagnostic::error("unknown caller").key(path).at(span, "not one of `callers`").hint(hint)
    }

    fn add(
        &mut self,
        name: Option<Rc<str>>,
        request: &RawRequest,
        (sender, client): (&Rc<Sender>, ClientAddress),
        expected: Expected,
        (span, place): (Span, Option<SourceLocation>),
        decoder: &mut Decoder<'_>,
    ) {
        if self.checks.len() < MAX_CHECKS {
            let RawRequest { method, target } = request.clone();
            self.checks.push(Check {
                name,
                method,
                target,
                sender: Rc::clone(sender),
                client,
                expected,
                place,
                span,
            });
        } else if !self.too_many {
            self.too_many = true;
            let label = format!("the file has more than {MAX_CHECKS} requests");
            decoder.record(Diagnostic::error("too many cases").at(span, label));
        }
    }
}

/// `map`: decoded with the file that names it, so that their errors are in one report.
#[derive(Debug)]
struct TestedMap {
    map: AbilityMap,
    file: PathBuf,
}

impl Decode for TestedMap {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let FilePath(file) = FilePath::decode(node, decoder)?;
        let before = decoder.diagnostics.len();
        let tree = decoder.read_included(&file, node)?;
        let map = decoder.at_top(|decoder| ability_map::compile(&tree, decoder));
        // `check` on the map reports its warnings and notes.
        let of_the_map = decoder.diagnostics.split_off(before);
        decoder.diagnostics.extend(of_the_map.into_iter().filter(|it| it.severity == Severity::Error));
        Some(Self { map: map?, file })
    }
}

leaf_schema!(TestedMap, json_schema!({"type": "string", "minLength": 1}));

/// The abilities of a token.
#[derive(Debug)]
struct AbilityList(Abilities);

impl Decode for AbilityList {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const ABILITIES: &str = "a list of abilities";
        if node.is_null() {
            let hint = "write `[]` for a token without abilities, or remove the key for no token".to_owned();
            return decoder.mismatch_with(node, "wrong type", ABILITIES, Some(hint));
        }
        let items = decoder.list(node, ABILITIES)?;
        let names: Vec<Option<_>> = items.iter().map(|item| decode_ability(item, decoder)).collect();
        let names: Vec<_> = names.into_iter().collect::<Option<_>>()?;
        Some(Self(Abilities::new(names.iter().map(|name| &**name))))
    }
}

leaf_schema!(AbilityList, json_schema!({"type": "array", "items": {"type": "string", "minLength": 1}}));

/// `from`: a client's address.
#[derive(Clone, Copy, Debug)]
struct Address(IpAddr);

impl Decode for Address {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const ADDRESS: &str = "an address such as `10.1.2.3` or `fd00::1`";
        let text = decoder.string(node, ADDRESS)?;
        parse_address(&text).map(Self).or_else(|| decoder.mismatch(node, "invalid address", ADDRESS))
    }
}

leaf_schema!(Address, json_schema!({"type": "string", "pattern": "^[0-9a-fA-F.:]+$"}));

/// `allowed_from`: the networks of a token.
#[derive(Debug)]
struct NetworkList(Networks);

impl Decode for NetworkList {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let networks = Vec::<Network>::decode(node, decoder)?;
        if networks.len() > MOST_NETWORKS {
            let label = format!("{} networks; the limit is {MOST_NETWORKS}", networks.len());
            return decoder.reject(Diagnostic::error("too many networks").at(node.span, label));
        }
        Some(Self(networks.into_iter().map(|network| network.0).collect()))
    }
}

impl JsonSchema for NetworkList {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NetworkList".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "array", "maxItems": MOST_NETWORKS, "items": Network::json_schema(generator)})
    }
}

/// The abilities of the token of a case; `None` if the key is absent and there is no token.
#[derive(Debug)]
struct CaseAbilities(Option<Abilities>);

impl Decode for CaseAbilities {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        AbilityList::decode(node, decoder).map(|granted| Self(Some(granted.0)))
    }

    fn absent(_decoder: &mut Decoder<'_>) -> Option<Self> {
        Some(Self(None))
    }
}

impl JsonSchema for CaseAbilities {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CaseAbilities".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        AbilityList::json_schema(generator)
    }
}

impl Decode for Expected {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let words = EXPECTED.map(|(word, _)| word);
        let expected = listed(&words);
        let text = decoder.scalar(node, &expected)?.text;
        if let Some((_, value)) = EXPECTED.into_iter().find(|(word, _)| *word == text) {
            return Some(value);
        }
        let hint = match &*text {
            "deny" | "denied" | "refuse" => Some("403 with a token, 401 without one".to_owned()),
            // Another status is not a misspelling.
            text if text.starts_with(|first: char| first.is_ascii_digit()) => None,
            text => nearest(text, words).map(|near| format!("did you mean `{near}`?")),
        };
        decoder.mismatch_with(node, "invalid value", expected, hint)
    }
}

leaf_schema!(Expected, json_schema!({"enum": ["allow", 400, 401, 403, "400", "401", "403"]}));
