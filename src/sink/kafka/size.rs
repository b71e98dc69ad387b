//! How large a record is for Kafka: known before it is sent, to the byte.

use super::Record;

/// Bytes of a batch before its first record, in message format 2.
const BATCH_OVERHEAD: usize = 61;

/// The size of a batch with this record alone, uncompressed: what a topic's `max.message.bytes`
/// is compared with.
pub(in crate::sink) fn batch_bytes(record: &Record<'_>) -> usize {
    let optional = |bytes: Option<&[u8]>| match bytes {
        None => varint(-1),
        Some(bytes) => sized(bytes.len()),
    };
    let headers = record
        .headers
        .iter()
        .map(|(name, value)| sized(name.len()) + optional(value.map(str::as_bytes)));
    // Attributes, and the differences of time and offset, which are 0 for a first record.
    let body = 3
        + optional(record.key)
        + optional(record.value)
        + varint_len(record.headers.count())
        + headers.sum::<usize>();
    BATCH_OVERHEAD + sized(body)
}

/// Bytes of a length and of what it counts.
fn sized(len: usize) -> usize {
    varint_len(len) + len
}

fn varint_len(len: usize) -> usize {
    varint(i64::try_from(len).unwrap_or(i64::MAX))
}

/// Bytes of a number in zig-zag encoding.
fn varint(number: i64) -> usize {
    let zigzag = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let bits = 64 - zigzag.leading_zeros();
    (bits.max(1)).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{EventRef, Parcel};

    #[test]
    fn numbers_take_as_many_bytes_as_kafka_gives_them() {
        for (number, bytes) in [(0, 1), (-1, 1), (63, 1), (64, 2), (8191, 2), (8192, 3)] {
            assert_eq!(varint(number), bytes, "{number}");
        }
    }

    #[test]
    fn an_empty_record_is_all_overhead() {
        let parcel = Parcel::default();
        let record = parcel.record(EventRef::default(), "t", false);
        // Length, attributes, time, offset, no key, no value, no headers.
        assert_eq!(batch_bytes(&record), 61 + 7);
        let large = Record { value: Some(&[0; 1000]), ..record };
        // The record's length, and the value's, take a byte more each.
        assert_eq!(batch_bytes(&large), 61 + 7 + 2 + 1000);
    }
}
