//! Certificates and private keys in PEM (RFC 7468).

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::text::{BYTE_ORDER_MARK, TextError, decode};

/// The largest file that is read, in bytes. Mozilla's whole bundle has 0.2 MiB.
const LARGEST: u64 = 16 << 20;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
/// Ends the BEGIN line and the END line.
const DASHES: &str = "-----";

/// The content that a file must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// At least one certificate.
    Certificate,
    /// A private key that is not encrypted.
    PrivateKey,
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private key",
        })
    }
}

/// The content of a file that lacks the wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemSection {
    /// No PEM block.
    #[error("no PEM block (`-----BEGIN …`)")]
    NoBlock,
    /// The binary form, without PEM's base64.
    #[error("DER, which `openssl` converts to PEM (`-inform DER -outform PEM`)")]
    Der,
    /// A certificate in place of a key.
    #[error("a certificate")]
    Certificate,
    /// A private key in place of a certificate.
    #[error("a private key")]
    PrivateKey,
    /// A private key of another kind, such as that of OpenSSH.
    #[error("a private key that is neither PKCS#8, PKCS#1 nor SEC1")]
    ForeignKey,
    /// A key encrypted with a password. The gateway has no terminal to prompt for it.
    #[error("an encrypted private key, which `openssl pkey -in FILE -out DECRYPTED` decrypts")]
    EncryptedKey,
    /// The public half of a key.
    #[error("a public key")]
    PublicKey,
    /// A certificate signing request.
    #[error("a certificate request, which an authority has yet to sign")]
    Request,
    /// Blocks of other kinds, such as parameters.
    #[error("PEM blocks of other kinds")]
    OtherBlocks,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Line breaks were lost, as in an environment variable.
    #[error("the PEM block has no line breaks")]
    NoLineBreaks,
    /// Line breaks are the two characters `\` and `n`, as in JSON.
    #[error("the PEM block has `\\n` in place of line breaks")]
    EscapedLineBreaks,
    /// A BEGIN or END line does not start in the first column.
    #[error("the PEM block is indented")]
    Indented,
    /// The file was cut off.
    #[error("the PEM block has no END line")]
    NoEnd,
    /// The text between the BEGIN and END lines is not base64, or is incomplete.
    #[error("the PEM block is damaged or cut off between its BEGIN and END lines")]
    Base64,
}

/// Why a file cannot be used. Contains nothing of the file's content.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is larger than 16 MiB.
    #[error("it is larger than {} MiB", LARGEST >> 20)]
    TooLarge,
    /// The file is empty or not UTF-8.
    #[error("it has no {wanted} in it: {source}")]
    NotText {
        /// The content that the file must have.
        wanted: Wanted,
        /// Why the file is not text.
        source: TextError,
    },
    /// The file has other content.
    #[error("it has no {wanted} in it, but {found}")]
    Missing {
        /// The content that the file must have.
        wanted: Wanted,
        /// The content that the file has.
        found: PemSection,
    },
    /// A block cannot be read.
    #[error("{0}")]
    Damaged(Damage),
}

/// Reads the certificates of a file in their order, at least one.
///
/// # Errors
/// If the file cannot be read, a block of it is damaged, or it holds no certificate.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let bytes = read(path)?;
    let text = text(&bytes, Wanted::Certificate)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    // The parser's error is dropped: it quotes the file.
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(diagnose(&text, Wanted::Certificate)),
    }
}

/// Reads the first private key of a file: PKCS#8, PKCS#1 or SEC1.
///
/// # Errors
/// If the file cannot be read, a block of it is damaged, or it has no unencrypted private key.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let bytes = read(path)?;
    let text = text(&bytes, Wanted::PrivateKey)?;
    // The parser's error is dropped: it quotes the file.
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| diagnose(&text, Wanted::PrivateKey))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let file = File::open(path)?;
    // A buffer that grows would leave a copy of the key in memory that is not erased.
    let room = usize::try_from(file.metadata()?.len().min(LARGEST) + 1).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(PemError::TooLarge) } else { Ok(bytes) }
}

/// Decodes a file and removes all byte order marks: concatenated files have some in the middle.
fn text(bytes: &[u8], wanted: Wanted) -> Result<Zeroizing<String>, PemError> {
    if is_der(bytes) {
        return Err(PemError::Missing { wanted, found: PemSection::Der });
    }
    let text = decode(bytes).map_err(|source| PemError::NotText { wanted, source })?;
    Ok(Zeroizing::new(text.replace(BYTE_ORDER_MARK, "")))
}

/// Whether the bytes are one ASN.1 SEQUENCE, as in the DER form of every certificate and key.
fn is_der(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, 0x80..=0x84, ..] => true,
        [0x30, length, content @ ..] => usize::from(*length) == content.len(),
        _ => false,
    }
}

/// Finds the reason why the parser did not find the wanted content.
fn diagnose(text: &str, wanted: Wanted) -> PemError {
    match (damage(text), found(text, wanted)) {
        (Some(_), _) if text.contains("\\n") => PemError::Damaged(Damage::EscapedLineBreaks),
        (Some(damage), _) => PemError::Damaged(damage),
        (None, Some(found)) => PemError::Missing { wanted, found },
        (None, None) => PemError::Damaged(Damage::Base64),
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\n', '\r'])
}

/// The fault that keeps a block from being parsed, the most specific first; `None` if every block is whole.
fn damage(text: &str) -> Option<Damage> {
    let is_begin = |line: &str| {
        let label = line.trim().strip_prefix(BEGIN).and_then(|label| label.strip_suffix(DASHES));
        label.is_some_and(|label| !label.contains('-'))
    };
    let is_end = |line: &str| line.trim_start().starts_with(END);
    if lines(text).any(|line| line.contains(BEGIN) && !is_begin(line) || line.contains(END) && !is_end(line))
    {
        return Some(Damage::NoLineBreaks);
    }
    if lines(text).any(|line| (is_begin(line) || is_end(line)) && line.starts_with([' ', '\t'])) {
        return Some(Damage::Indented);
    }
    let mut open = None;
    let mut is_base64 = true;
    for line in lines(text) {
        if let Some(label) = line.strip_prefix(BEGIN) {
            if open.is_some() {
                return Some(Damage::NoEnd);
            }
            open = label.trim_end().strip_suffix(DASHES);
        } else if let Some(label) = open {
            match line.strip_prefix(END).and_then(|rest| rest.strip_prefix(label)) {
                Some(rest) if rest.starts_with(DASHES) => open = None,
                // An encrypted key begins with lines of the form `Name: value`.
                _ => is_base64 &= line.contains(": ") || line.bytes().all(is_base64_byte),
            }
        }
    }
    match (open, is_base64) {
        (Some(_), _) => Some(Damage::NoEnd),
        (None, false) => Some(Damage::Base64),
        (None, true) => None,
    }
}

fn is_base64_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b' ' | b'\t')
}

/// The content in place of the wanted one; `None` if the text has a block of the wanted kind.
fn found(text: &str, wanted: Wanted) -> Option<PemSection> {
    let labels = || lines(text).filter_map(|line| line.trim_end().strip_prefix(BEGIN)?.strip_suffix(DASHES));
    let has = |words: &str| labels().any(|label| label.contains(words));
    if labels().next().is_none() {
        return Some(PemSection::NoBlock);
    }
    let is_encrypted =
        has("ENCRYPTED PRIVATE KEY") || lines(text).any(|line| line.trim_end() == "Proc-Type: 4,ENCRYPTED");
    let is_key = |label| matches!(label, "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY");
    match wanted {
        Wanted::PrivateKey if is_encrypted => Some(PemSection::EncryptedKey),
        Wanted::PrivateKey if labels().any(is_key) => None,
        Wanted::PrivateKey if has("PRIVATE KEY") => Some(PemSection::ForeignKey),
        Wanted::Certificate if labels().any(|label| label == "CERTIFICATE") => None,
        _ if has("CERTIFICATE REQUEST") => Some(PemSection::Request),
        Wanted::PrivateKey if has("CERTIFICATE") => Some(PemSection::Certificate),
        Wanted::Certificate if has("PRIVATE KEY") => Some(PemSection::PrivateKey),
        _ if has("PUBLIC KEY") => Some(PemSection::PublicKey),
        _ => Some(PemSection::OtherBlocks),
    }
}

#[cfg(test)]
mod tests;
