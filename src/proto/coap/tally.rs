//! Counts for each holder. A holder whose count is zero takes no memory.

use std::collections::HashMap;

/// A counter for each holder.
#[derive(Debug, Default)]
pub(super) struct Tally(HashMap<u64, u32>);

impl Tally {
    pub(super) fn add(&mut self, holder: u64) {
        *self.0.entry(holder).or_default() += 1;
    }

    pub(super) fn subtract(&mut self, holder: u64) {
        let Some(count) = self.0.get_mut(&holder) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(&holder);
        }
    }

    pub(super) fn count(&self, holder: u64) -> usize {
        self.0.get(&holder).map_or(0, |count| *count as usize)
    }
}
