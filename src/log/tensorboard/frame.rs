//! TFRecord framing: `length u64 | crc(length) | payload | crc(payload)`, little-endian, masked CRC-32C.
//!
//! The reader trusts nothing: lengths are checked against what is there, both checksums are verified, and a file cut
//! in the middle of a record is told apart from a corrupt one (a live writer leaves the first, never the second).

use super::proto::Event;
use prost::Message;

const HEADER: usize = 12;
const FOOTER: usize = 4;

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The file ends in the middle of a record.
    #[error("byte {offset}: the file ends in the middle of a record (still being written, or cut by a crash)")]
    Torn {
        /// Where the record starts.
        offset: usize,
    },
    /// A checksum differs.
    #[error("byte {offset}: the checksum of the record's {part} is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Where the record starts.
        offset: usize,
        /// `length` or `content`.
        part: &'static str,
        /// What the content gives.
        expected: u32,
        /// What the file says.
        found: u32,
    },
    /// The content is no event.
    #[error("byte {offset}: the record is no event: {message}")]
    Event {
        /// Where the record starts.
        offset: usize,
        /// What the decoder says.
        message: String,
    },
}

/// CRC-32C (Castagnoli), rotated and shifted so that a checksum of data with a checksum inside stays a good one.
pub fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// One record around a payload.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + payload.len() + FOOTER);
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.extend_from_slice(&masked_crc(&out[..8]).to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&masked_crc(payload).to_le_bytes());
    out
}

/// The payloads of an events file, in order; ends after the first error.
pub struct Frames<'a> {
    bytes: &'a [u8],
    offset: usize,
    broken: bool,
}

/// Reads the records of an events file held in memory.
pub fn frames(bytes: &[u8]) -> Frames<'_> {
    Frames { bytes, offset: 0, broken: false }
}

/// Reads the events of an events file held in memory; ends after the first error.
pub fn events(bytes: &[u8]) -> impl Iterator<Item = Result<Event, FrameError>> {
    let mut frames = frames(bytes);
    std::iter::from_fn(move || {
        let offset = frames.offset;
        let event = frames.next()?.and_then(|payload| {
            Event::decode(payload).map_err(|e| FrameError::Event { offset, message: e.to_string() })
        });
        frames.broken |= event.is_err();
        Some(event)
    })
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<&'a [u8], FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken || self.offset == self.bytes.len() {
            return None;
        }
        let item = self.read();
        self.broken = item.is_err();
        Some(item)
    }
}

impl<'a> Frames<'a> {
    fn read(&mut self) -> Result<&'a [u8], FrameError> {
        let offset = self.offset;
        let torn = FrameError::Torn { offset };
        let (length, crc) = (self.word::<8>(offset), self.word::<4>(offset + 8));
        let (length, crc) = length.zip(crc).ok_or(torn.clone())?;
        check(offset, "length", &length, crc)?;
        let start = offset + HEADER;
        let end = usize::try_from(u64::from_le_bytes(length)).ok().and_then(|n| start.checked_add(n));
        let payload = end.and_then(|end| self.bytes.get(start..end)).ok_or(torn.clone())?;
        let crc = self.word::<4>(start + payload.len()).ok_or(torn)?;
        check(offset, "content", payload, crc)?;
        self.offset = start + payload.len() + FOOTER;
        Ok(payload)
    }

    fn word<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk::<N>().copied()
    }
}

fn check(offset: usize, part: &'static str, bytes: &[u8], crc: [u8; 4]) -> Result<(), FrameError> {
    let (expected, found) = (masked_crc(bytes), u32::from_le_bytes(crc));
    if expected == found { Ok(()) } else { Err(FrameError::Checksum { offset, part, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{Datum, SessionLog, Summary, Value, What};
    use super::*;
    use proptest::prelude::*;

    /// Written by TensorBoard 2.21's own `RecordWriter` from the three events of the test below.
    const GOLDEN: &str = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c2200000000000000\
                          78113dfd09000000000000044010072a150a130a0c747261696e2f6c6f73732f61150000803e50dff70b0f00000000000000\
                          6d532b0909000000000000084010083a02080185c347cd";

    fn golden_events() -> Vec<Event> {
        let datum = Some(Datum::Scalar(0.25));
        let value = vec![Value { tag: "train/loss/a".into(), metadata: None, datum }];
        vec![
            Event { wall_time: 1.5, step: 0, what: Some(What::FileVersion("brain.Event:2".into())) },
            Event { wall_time: 2.5, step: 7, what: Some(What::Summary(Summary { value })) },
            Event { wall_time: 3.0, step: 8, what: Some(What::SessionLog(SessionLog { status: 1 })) },
        ]
    }

    fn golden_bytes() -> Vec<u8> {
        let digits: Vec<u8> = GOLDEN.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|h| u8::from_str_radix(std::str::from_utf8(h).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn bytes_equal_those_of_tensorboard_itself() {
        let written: Vec<u8> = golden_events().iter().flat_map(|e| frame(&e.encode_to_vec())).collect();
        assert_eq!(written, golden_bytes());
        let read: Result<Vec<_>, _> = events(&written).collect();
        assert_eq!(read.unwrap(), golden_events());
    }

    #[test]
    fn a_file_cut_anywhere_gives_the_whole_records_and_then_says_torn() {
        let bytes = golden_bytes();
        let starts: Vec<usize> =
            frames(&bytes).scan(0, |at, f| Some(std::mem::replace(at, *at + f.unwrap().len() + 16))).collect();
        for cut in 0..bytes.len() {
            let items: Vec<_> = events(&bytes[..cut]).collect();
            let whole = items.iter().filter(|e| e.is_ok()).count();
            if starts.contains(&cut) {
                assert_eq!(items.len(), whole);
            } else {
                assert_eq!(items.last(), Some(&Err(FrameError::Torn { offset: starts[whole] })), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_record_that_is_no_event_is_refused_and_ends_the_reading() {
        let mut bytes = frame(&[0xff; 5]);
        bytes.extend(golden_bytes());
        let items: Vec<_> = events(&bytes).collect();
        assert!(matches!(items[..], [Err(FrameError::Event { offset: 0, .. })]), "{items:?}");
    }

    proptest! {
        #[test]
        fn any_payloads_come_back(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|p| frame(p)).collect();
            let read: Vec<Vec<u8>> = frames(&bytes).map(|f| f.unwrap().to_vec()).collect();
            prop_assert_eq!(read, payloads);
        }

        #[test]
        fn any_flipped_bit_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), bit in 0..8u32) {
            let mut bytes = frame(&payload);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert!(frames(&bytes).next().unwrap().is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), as_record in any::<bool>()) {
            let bytes = if as_record { frame(&bytes) } else { bytes };
            prop_assert!(events(&bytes).count() <= bytes.len());
        }
    }
}
