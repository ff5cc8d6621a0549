//! Reuses the memory of field maps: a new map per response would cost two allocations.

use std::cell::Cell;

use http::HeaderMap;

/// Largest capacity of a map that is kept, in fields.
const KEPT: usize = 64;

thread_local! {
    static SPARE: Cell<Option<HeaderMap>> = const { Cell::new(None) };
}

/// An empty map with capacity for this many fields.
pub(super) fn take(fields: usize) -> HeaderMap {
    match SPARE.take() {
        Some(mut map) => {
            map.reserve(fields);
            map
        }
        None => HeaderMap::with_capacity(fields),
    }
}

/// Keeps the memory of a map.
pub fn recycle(mut map: HeaderMap) {
    if (1..=KEPT).contains(&map.capacity()) {
        map.clear();
        SPARE.set(Some(map));
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::ACCEPT;

    use super::*;

    #[test]
    fn recycled_map_is_taken_once_and_empty() {
        let mut map = HeaderMap::with_capacity(10);
        map.append(ACCEPT, HeaderValue::from_static("a"));
        map.append(ACCEPT, HeaderValue::from_static("b"));
        let capacity = map.capacity();
        recycle(map);
        let map = take(1);
        assert_eq!((map.len(), map.capacity()), (0, capacity));
        assert!(take(1).capacity() < capacity);
    }

    #[test]
    fn large_map_is_not_kept() {
        recycle(HeaderMap::with_capacity(1000));
        assert!(take(1).capacity() <= KEPT);
    }
}
