//! Limits of responses, and errors in them.

/// Largest response head, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// Largest number of fields in a head or trailer section.
pub const MAX_FIELDS: usize = 256;
/// Largest number of interim responses to a request.
pub(super) const MAX_INTERIM: u32 = 100;
/// Largest chunk extension, in bytes. Extensions are dropped.
pub(super) const MAX_EXTENSION: usize = 4 * 1024;
/// Largest trailer section, in bytes.
pub(super) const MAX_TRAILERS: usize = 16 * 1024;

/// Why a response is malformed or ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The head is longer than [`MAX_HEAD`].
    #[error("a response head of more than {MAX_HEAD} bytes")]
    LongHead,
    /// The head or the trailer section has more than [`MAX_FIELDS`] fields.
    #[error("more than {MAX_FIELDS} fields")]
    ManyFields,
    /// The head is not HTTP/1.0 or HTTP/1.1.
    #[error("a malformed response head: {0}")]
    Head(httparse::Error),
    /// The first bytes are not those of a status line.
    #[error("no HTTP/1 status line")]
    NoStatusLine,
    /// More interim responses than a server has reason to send.
    #[error("more than {MAX_INTERIM} interim responses")]
    ManyInterim,
    /// A status code below 100.
    #[error("a status code below 100")]
    StatusCode,
    /// RFC 9112 section 6.3 allows recipients to choose between the two.
    #[error("both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// Several Content-Length fields, even if they are equal.
    #[error("several Content-Length fields")]
    ManyContentLengths,
    /// A Content-Length that is not a number of at most 19 digits.
    #[error("malformed Content-Length")]
    ContentLength,
    /// A transfer coding that the gateway does not decode, or several.
    #[error("Transfer-Encoding other than chunked")]
    TransferEncoding,
    /// HTTP/1.0 has no transfer codings (RFC 9112 section 6.1).
    #[error("Transfer-Encoding in an HTTP/1.0 response")]
    TransferEncodingInHttp10,
    /// A chunk size that is not hexadecimal, has more than 16 digits, or does not end with CRLF.
    #[error("malformed chunk size")]
    ChunkSize,
    /// A chunk extension that is too long.
    #[error("a chunk extension of more than {MAX_EXTENSION} bytes")]
    ChunkExtension,
    /// The data of a chunk is not followed by CRLF.
    #[error("a chunk without a final CRLF")]
    ChunkEnd,
    /// The trailer section is longer than allowed.
    #[error("a trailer section of more than {MAX_TRAILERS} bytes")]
    LongTrailers,
    /// The trailer section has malformed fields.
    #[error("a malformed trailer section: {0}")]
    Trailers(httparse::Error),
}
