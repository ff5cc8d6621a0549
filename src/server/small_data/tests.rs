use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The limit of h2 0.4 for a connection window of 512 KiB.
const H2_BUDGET: usize = 256 * 1024;
const H2_EMPTY: usize = 100;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header { length: payload.len(), kind, flags, stream }.write(&mut bytes);
    bytes.extend(payload);
    bytes
}

/// A DATA frame with its padding, and the length of the padding; 0 omits the padding field.
fn data(flags: u8, stream: u32, data: &[u8], padding: Option<u8>) -> Vec<u8> {
    match padding {
        None => frame(DATA, flags, stream, data),
        Some(padding) => {
            let payload = [&[padding][..], data, &vec![0; padding.into()]].concat();
            frame(DATA, flags | PADDED, stream, &payload)
        }
    }
}

/// The scanner's output for chunks of `size`.
fn through(small: &mut SmallData, bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, piece) in bytes.chunks(size).enumerate() {
        let chunk = [small.partial(), piece].concat();
        let passed = small.take(&chunk, number % 3 < 2);
        out.extend_from_slice(&chunk[..passed]);
        given(small, &mut out);
    }
    out
}

fn given(small: &mut SmallData, out: &mut Vec<u8>) {
    let mut space = [0; 700];
    loop {
        let mut buffer = ReadBuf::new(&mut space);
        if !small.give(&mut buffer) {
            break;
        }
        out.extend_from_slice(buffer.filled());
    }
}

/// The streams that h2 decodes from frames.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// For each stream its data, with `|` at its end, `H` for fields and `R` for a reset; and the bytes that flow
    /// control counts.
    streams: BTreeMap<u32, (Vec<u8>, usize)>,
    others: Vec<(u8, Vec<u8>)>,
}

impl Seen {
    fn of(mut bytes: &[u8]) -> (Self, usize, usize) {
        let (mut seen, mut overhead, mut empty) = (Self::default(), 0_usize, 0);
        while let Some(header) = Header::read(bytes) {
            let payload = &bytes[HEADER..HEADER + header.length];
            bytes = &bytes[HEADER + header.length..];
            assert!(header.length <= LARGEST);
            let (text, counted) = seen.streams.entry(header.stream).or_default();
            match header.kind {
                DATA => {
                    *counted += payload.len();
                    let data = match header.has(PADDED) {
                        true => &payload[1..payload.len() - usize::from(payload[0])],
                        false => payload,
                    };
                    text.extend(data);
                    if header.has(END_STREAM) {
                        text.push(b'|');
                    } else if data.is_empty() {
                        empty += 1;
                    } else {
                        overhead = (overhead + frame_overhead(data.len()))
                            .saturating_sub(data.len().saturating_sub(SMALL_FRAME));
                    }
                }
                HEADERS => text.push(b'H'),
                RST_STREAM => text.push(b'R'),
                kind => seen.others.push((kind, payload.to_vec())),
            }
        }
        assert!(bytes.is_empty(), "whole frames: {bytes:?}");
        seen.streams.retain(|_, (text, _)| !text.is_empty());
        (seen, overhead, empty)
    }
}

#[test]
fn unread_one_byte_frames_stay_within_the_budget() {
    for (length, padding) in [(1, None), (5, None), (100, None), (255, None), (1, Some(0)), (20, Some(9))] {
        let mut small = SmallData::after(0, 100);
        let window = 512 * 1024;
        let one = data(0, 1, &vec![b'x'; length], padding);
        let sent = one.repeat(window / (one.len() - HEADER));
        let out = through(&mut small, &sent, 16 * 1024);
        let (_, overhead, _) = Seen::of(&out);
        assert!(overhead <= H2_BUDGET, "{length} {padding:?}: {overhead}");
        small.end(&[]);
        let mut rest = Vec::new();
        given(&mut small, &mut rest);
        assert_eq!(Seen::of(&[out, rest].concat()).0, Seen::of(&sent).0, "{length} {padding:?}");
    }
}

#[test]
fn alternating_small_and_large_frames_stay_within_the_budget() {
    let mut small = SmallData::after(0, 100);
    let pair = [data(0, 1, b"x", None), data(0, 1, &[b'y'; 300], None)].concat();
    let sent = pair.repeat(512 * 1024 / 301);
    let out = through(&mut small, &sent, 16 * 1024);
    let (seen, overhead, _) = Seen::of(&out);
    assert!(overhead <= H2_BUDGET, "{overhead}");
    assert_eq!(seen, Seen::of(&sent).0);
}

#[test]
fn excess_empty_frames_are_dropped() {
    let mut small = SmallData::after(0, 100);
    let sent = [data(0, 1, b"", None).repeat(5000), data(END_STREAM, 1, b"", None)].concat();
    let (seen, _, empty) = Seen::of(&through(&mut small, &sent, 1000));
    assert!(empty < H2_EMPTY);
    assert_eq!(seen.streams[&1].0, b"|");
}

#[test]
fn frames_of_read_bodies_are_forwarded_at_once() {
    let mut small = SmallData::after(0, 100);
    for _ in 0..20_000 {
        let one = data(0, 1, b"x", None);
        assert_eq!(through(&mut small, &one, 100), one);
        small.read(frame_overhead(1));
    }
    assert!(small.waiting.is_empty());
}

#[test]
fn waiting_frames_continue_when_bodies_are_read_or_streams_end() {
    let mut small = SmallData::after(0, 100);
    let sent = data(0, 1, b"x", None).repeat(1100);
    let out = through(&mut small, &sent, 1000);
    let (_, overhead, _) = Seen::of(&out);
    assert!(small.is_waiting());
    small.read(overhead);
    assert!(!small.is_waiting());
    let mut rest = Vec::new();
    given(&mut small, &mut rest);
    assert_eq!(Seen::of(&[out, rest].concat()).0, Seen::of(&sent).0);

    let mut small = SmallData::after(0, 100);
    through(&mut small, &sent, 1000);
    assert!(small.spent > BUDGET / 2);
    small.ended(1);
    assert_eq!((small.spent, small.is_waiting()), (0, false));
}

/// A client that gives up many uploads may still send others in small frames.
#[test]
fn unread_frames_of_reset_streams_spend_no_budget() {
    for size in [7, 1000] {
        let mut small = SmallData::after(0, 100);
        for stream in (1..4001).step_by(2) {
            let sent = [data(0, stream, b"x", None), frame(RST_STREAM, 0, stream, &[0; 4])].concat();
            assert_eq!(through(&mut small, &sent, size), sent, "{stream}");
        }
        assert_eq!((small.spent, small.streams.len(), small.is_waiting()), (0, 0, false));
    }
}

#[test]
fn frames_of_closed_streams_do_not_wait_forever() {
    let mut small = SmallData::after(0, 100);
    through(&mut small, &data(0, 1, b"x", None).repeat(1100), 1000);
    let others: Vec<u8> = (0..10_000).flat_map(|number| data(0, 3 + 2 * number, b"x", None)).collect();
    through(&mut small, &others, 1000);
    assert!(small.waiting.len() <= 100 + 1, "{}", small.waiting.len());
}

fn sent() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let stream = prop::sample::select(vec![1_u32, 3, 5]);
    let length =
        prop_oneof![Just(0_usize), Just(1), 1..30_usize, 200..300_usize, 1000..3000_usize, Just(16_000)];
    let one = (stream, length, 0..24_u8, any::<u8>()).prop_map(|(stream, length, kind, byte)| match kind {
        0 => frame(HEADERS, END_STREAM, stream, &[byte; 20]),
        1 => frame(RST_STREAM, 0, stream, &[byte; 4]),
        2 => frame(6, 0, 0, &[byte; 8]),
        3 => data(END_STREAM, stream, &vec![byte; length], None),
        4 => data(0, stream, &vec![byte; length], Some(byte)),
        5 => data(0, stream, &vec![byte; length % 20], Some(byte % 10)),
        6 => data(END_STREAM, stream, &vec![byte; length % 200], Some(byte)),
        _ => data(0, stream, &vec![byte; length % 400], None),
    });
    prop::collection::vec(one, 0..200)
}

proptest! {
    /// For any frames in any pieces, h2 decodes the same streams, and flow control counts the same lengths.
    #[test]
    fn delayed_frames_preserve_every_stream(
        frames in sent(),
        size in prop::sample::select(vec![1_usize, 7, 10, 100, 300, 5000]),
        spent in prop::sample::select(vec![0_usize, BUDGET - 1000, BUDGET, 2 * BUDGET]),
        reads in prop::collection::vec(0..3000_usize, 0..5),
    ) {
        let mut small = SmallData { spent, ..SmallData::after(0, 100) };
        let mut out = Vec::new();
        let parts = frames.len() / (reads.len() + 1) + 1;
        let mut reads = reads.into_iter();
        for some in frames.chunks(parts) {
            out.extend(through(&mut small, &some.concat(), size));
            if let Some(lacked) = reads.next() {
                small.read(lacked);
                given(&mut small, &mut out);
            }
        }
        small.end(&[]);
        given(&mut small, &mut out);
        prop_assert_eq!(Seen::of(&out).0, Seen::of(&frames.concat()).0);
    }
}
