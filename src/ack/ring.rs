//! A ring indexed by sequence numbers: the slots of the events that are open.

/// Values of at most `capacity` consecutive sequence numbers; older ones are overwritten.
#[derive(Debug)]
pub(super) struct Ring<T> {
    slots: Box<[T]>,
    mask: u64,
}

impl<T: Copy + Default> Ring<T> {
    /// Room for at least `capacity` numbers.
    pub(super) fn new(capacity: usize) -> Self {
        let len = capacity.max(1).next_power_of_two();
        Self { slots: vec![T::default(); len].into_boxed_slice(), mask: len as u64 - 1 }
    }

    #[expect(clippy::indexing_slicing, reason = "masked by the length, a power of two")]
    #[expect(clippy::cast_possible_truncation, reason = "masked by a length in memory")]
    pub(super) fn get(&self, seq: u64) -> T {
        self.slots[(seq & self.mask) as usize]
    }

    #[expect(clippy::indexing_slicing, reason = "masked by the length, a power of two")]
    #[expect(clippy::cast_possible_truncation, reason = "masked by a length in memory")]
    pub(super) fn set(&mut self, seq: u64, value: T) {
        self.slots[(seq & self.mask) as usize] = value;
    }
}
