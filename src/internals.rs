//! The items that benchmarks, fuzz targets and integration tests use. They may change at any time.
//!
//! All other modules are private to the crate, so that the compiler finds code that nothing uses.

pub mod backend {
    pub mod forward {
        pub use crate::backend::forward::Backend;
    }
}
pub mod client {
    pub use crate::client::{
        ClientStream, ConnectError, ConnectStep, Connector, ConnectorError, OfferedProtocols,
    };
    pub mod http1 {
        pub use crate::client::http1::{Connection, Http1Error, MAX_FIELDS, MAX_HEAD, Outgoing, RequestHead};
    }
    pub mod pool {
        pub use crate::client::pool::Pool;
    }
}
pub mod config {
    pub use crate::config::{Loaded, Report, Settings, Severity, load_text, load_with};
    pub mod settings {
        pub use crate::config::settings::{
            ClientTls, Destination, FindingRules, Introspection, IntrospectionStyle, JsonPointer, ListenTls,
            ResponsePointers, Roots, Settings, Usage,
        };
    }
}
pub mod demo {
    pub use crate::demo::Stockaj;
    pub mod tokens {
        pub use crate::demo::tokens::{ALL, EXPIRED, READER, SCANNER, USER, WRITER};
    }
}
pub mod downstream {
    pub use crate::downstream::Downstream;
}
pub mod gateway {
    pub use crate::gateway::Gateway;
    pub mod tunnel {
        pub use crate::gateway::tunnel::TunnelSlot;
    }
}
pub mod limits {
    pub use crate::limits::Limiter;
}
pub mod policy {
    pub mod ability {
        pub use crate::policy::ability::{Abilities, Requirement, RequirementKind};
    }
    pub mod bearer {
        pub use crate::policy::bearer::{Token, at_most_one};
    }
    pub mod decision {
        pub use crate::policy::decision::{NextStep, Permit, RouteInputs, TokenRights, route};
    }
    pub mod expectation {
        pub use crate::policy::expectation::waits;
    }
    pub mod expected_claims {
        pub use crate::policy::expected_claims::{Claim, ExpectedClaims};
    }
    pub mod framing {
        pub use crate::policy::framing::{Bounds, FramingFault, Scan, Scanner};
    }
    pub mod headers {
        pub use crate::policy::headers::{Credentials, Forwarding, UpstreamFields, prepare_response};
    }
    pub mod map {
        pub use crate::policy::map::{AbilityMap, MapBuilder, RouteMatch, RouteOptions, Unmapped};
    }
    pub mod method {
        pub use crate::policy::method::{MethodOverride, overriding};
    }
    pub mod network {
        pub use crate::policy::network::{
            ClientAddress, MOST_NETWORKS, Networks, RouteNetworks, parse_network,
        };
    }
    pub mod path {
        pub use crate::policy::path::CanonicalPath;
    }
    pub mod query {
        pub use crate::policy::query::{QueryRules, RawCheck, RawParameter, RawValue};
    }
    pub mod refusal {
        pub use crate::policy::refusal::{Reason, Refusal};
    }
    pub mod route {
        pub use crate::policy::route::RouteError;
    }
    pub mod singleton {
        pub use crate::policy::singleton::check;
    }
    pub mod target {
        pub use crate::policy::target::{METHODS, Target, add_missing_host};
    }
    pub mod trusted_fields {
        pub use crate::policy::trusted_fields::TrustedFields;
    }
    pub mod upgrade {
        pub use crate::policy::upgrade::Handshake;
    }
}
pub mod response {
    pub mod record {
        pub use crate::response::record::Recorder;
    }
}
pub mod server {
    pub mod tls {
        pub use crate::server::tls::{CertificateError, load};
    }
}
pub mod telemetry {
    pub mod access {
        pub use crate::telemetry::access::{AccessLog, FIELDS};
    }
    pub mod metrics {
        pub use crate::telemetry::metrics::Metrics;
    }
    pub mod unmapped {
        pub use crate::telemetry::unmapped::UncoveredRequests;
    }
}
pub mod tokens {
    pub use crate::tokens::Verdict;
    pub mod cache {
        pub use crate::tokens::cache::TokenCache;
    }
    pub mod hash {
        pub use crate::tokens::hash::{TokenHash, TokenHashes};
    }
    pub mod introspection {
        pub use crate::tokens::introspection::{
            Inactive, IntrospectionResponse, LONGEST_ABILITIES, MAX_ANSWER, MAX_NAME, MAX_TEXT,
            MOST_ABILITIES, Mismatch, NoVerdict, ReceivedResponse, read,
        };
    }
    pub mod introspection_limiter {
        pub use crate::tokens::introspection_limiter::IntrospectionLimiter;
    }
    pub mod introspector {
        pub use crate::tokens::introspector::Introspector;
    }
    pub mod lookup {
        pub use crate::tokens::lookup::{CachedToken, Lookup, LookupRequest, LookupStats, SharedVerdicts};
    }
    pub mod verdict {
        pub use crate::tokens::verdict::Verdict;
    }
}
pub mod usage {
    pub mod batch {
        pub use crate::usage::batch::{CountedOutcome, CountedRequest, TokenDescription};
    }
    pub mod findings {
        pub use crate::usage::findings::findings;
    }
    pub mod overview {
        pub use crate::usage::overview::{Calls, Overview};
    }
    pub mod page {
        pub use crate::usage::page::{PageContext, overview, token};
    }
    pub mod query {
        pub use crate::usage::query::ReportQuery;
    }
    pub mod report {
        pub use crate::usage::report::{Report, TokenUsage};
    }
    pub mod report_stream {
        pub use crate::usage::report_stream::ReportStream;
    }
    pub mod writer {
        pub use crate::usage::writer::Usage;
    }
}
