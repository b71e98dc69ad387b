//! Which partition a key belongs to: the same as for every Java client.

/// What chooses a record's partition, once the topic's partitions are known.
///
/// We compute the partition ourselves, for every record: two ways to choose one would let records
/// of one key wait in different places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// This one.
    Fixed(i32),
    /// The one that this hash belongs to.
    Hashed(u32),
}

impl Placement {
    /// The partition of `key` as Kafka's Java clients choose it.
    pub fn of_key(key: &[u8]) -> Self {
        Self::Hashed(murmur2(key) & 0x7FFF_FFFF)
    }

    /// The partition, of so many.
    pub fn partition(self, partition_count: i32) -> i32 {
        match self {
            Placement::Fixed(partition) => partition,
            Placement::Hashed(hash) => hash.cast_signed() % partition_count.max(1),
        }
    }
}

/// MurmurHash2, 32 bits, with the seed of `org.apache.kafka.common.utils.Utils.murmur2`.
#[expect(clippy::cast_possible_truncation, reason = "the algorithm takes the length modulo 2^32")]
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5BD1_E995;
    let mut hash = 0x9747_B28C ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    for (place, byte) in tail.iter().enumerate().rev() {
        hash ^= u32::from(*byte) << (8 * place);
    }
    if !tail.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest`.
    #[test]
    fn murmur2_is_javas() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn every_key_has_a_partition() {
        for len in 0..64 {
            let key = vec![0xFF; len];
            assert!((0..7).contains(&Placement::of_key(&key).partition(7)));
        }
        assert_eq!(Placement::of_key(b"foobar").partition(6), (-790_332_482 & 0x7FFF_FFFF) % 6);
    }
}
