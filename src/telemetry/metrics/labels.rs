//! The values of labels that are not routes.

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The label's value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

labels! {
    /// A phase of a request: `phase`.
    TimedPhase {
        /// Waiting for introspection.
        Introspection = "introspection",
        /// Waiting for one of `backend.max_connections`; only requests that had to.
        Queue = "queue",
        /// From the first attempt to reach the backend to the head of its response.
        Backend = "backend",
        /// The rest, in the gateway itself.
        Gateway = "gateway",
    }
}

labels! {
    /// The outcome of an introspection: `outcome`.
    IntrospectionOutcome {
        /// The token is active.
        Active = "active",
        /// The token is inactive.
        Inactive = "inactive",
        /// The introspection failed.
        NoVerdict = "no_verdict",
    }
}

labels! {
    /// The result of a cache lookup: `result`.
    LookupResult {
        /// An active verdict.
        Hit = "hit",
        /// An inactive verdict.
        NegativeHit = "negative_hit",
        /// A verdict past its `ttl`, because the introspector is unavailable.
        Stale = "stale",
        /// No usable verdict; started an introspection.
        Miss = "miss",
        /// No usable verdict; joined an introspection of the same token.
        Coalesced = "coalesced",
    }
}

labels! {
    /// The kind of a cache entry: `kind`.
    EntryKind {
        /// For active tokens.
        Active = "active",
        /// For inactive tokens.
        Inactive = "inactive",
    }
}

labels! {
    /// Why an entry was removed from the cache: `cause`.
    EvictionCause {
        /// It had expired.
        Expired = "expired",
        /// The cache was full.
        Size = "size",
        /// A newer verdict replaced it.
        Replaced = "replaced",
        /// It was revoked, or the backend's response contradicted it.
        Explicit = "explicit",
    }
}

labels! {
    /// The state of a connection: `state`.
    ConnectionUse {
        /// Has a request in flight.
        Active = "active",
        /// Idle.
        Idle = "idle",
    }
}

labels! {
    /// The source of a revocation: `source`.
    RevocationSource {
        /// The admin API.
        Admin = "admin",
        /// A signed webhook from Stockaj.
        Webhook = "webhook",
        /// Another replica.
        Redis = "redis",
    }
}

labels! {
    /// The outcome of a webhook: `outcome`.
    WebhookOutcome {
        /// The token was invalidated.
        Forgotten = "forgotten",
        /// The event does not concern tokens.
        Ignored = "ignored",
        /// The signature is invalid, or the id is missing.
        Refused = "refused",
    }
}

labels! {
    /// The direction of a message between replicas: `direction`.
    RedisMessage {
        /// Sent to the other replicas.
        Sent = "sent",
        /// Received from another replica.
        Received = "received",
        /// Received, invalid and ignored.
        Refused = "refused",
    }
}

labels! {
    /// The outcome of an exchange of shares with other replicas: `outcome`.
    ShareExchange {
        /// The shares were renewed.
        Succeeded = "succeeded",
        /// Redis could not be reached, or did not answer in time.
        Failed = "failed",
        /// The answer was invalid and ignored.
        Refused = "refused",
    }
}

labels! {
    /// The outcome of spans: `outcome`.
    SpanOutcome {
        /// The collector accepted them.
        Exported = "exported",
        /// The collector did not accept them, or not in time.
        Dropped = "dropped",
    }
}

labels! {
    /// Why a TLS handshake with a client failed: `reason`.
    HandshakeFailure {
        /// The client presented no certificate, or none that `client_ca` accepts.
        Certificate = "certificate",
        /// It took longer than `limits.header_timeout`.
        Timeout = "timeout",
        /// Anything else: no common version or cipher suite, no TLS, or a client that rejects the gateway's
        /// certificate.
        Protocol = "protocol",
    }
}
