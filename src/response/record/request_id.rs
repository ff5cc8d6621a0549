//! Ids of requests.

use std::cell::Cell;

use bytes::Bytes;
use http::HeaderValue;

/// Length of a request id, in bytes.
const REQUEST_ID: usize = 32;

/// Request ids per allocation, which is freed with the last of them.
const IDS_AT_ONCE: usize = 32;

thread_local! {
    static UNUSED_IDS: Cell<Bytes> = const { Cell::new(Bytes::new()) };
}

/// A new request id: 32 random hex digits.
pub fn new_request_id() -> HeaderValue {
    let mut unused = UNUSED_IDS.take();
    if unused.len() < REQUEST_ID {
        let mut ids = Vec::with_capacity(IDS_AT_ONCE * REQUEST_ID);
        (0..IDS_AT_ONCE).for_each(|_| ids.extend_from_slice(&random_id()));
        unused = ids.into();
    }
    let id = unused.split_to(REQUEST_ID);
    UNUSED_IDS.set(unused);
    HeaderValue::from_maybe_shared(id).unwrap_or(HeaderValue::from_static("-"))
}

fn random_id() -> [u8; REQUEST_ID] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    const PAIRS: [[u8; 2]; 256] = {
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
            byte += 1;
        }
        pairs
    };
    let mut text = [0; REQUEST_ID];
    let (pairs, _) = text.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(fastrand::u128(..).to_be_bytes()) {
        *pair = PAIRS[usize::from(byte)];
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn request_ids_are_32_hex_digits_and_differ() {
        let ids: HashSet<HeaderValue> = (0..10 * IDS_AT_ONCE).map(|_| new_request_id()).collect();
        assert_eq!(ids.len(), 10 * IDS_AT_ONCE);
        for id in ids {
            assert_eq!(id.len(), REQUEST_ID);
            assert!(id.as_bytes().iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id:?}");
        }
    }
}
