//! A vector of numbered slots whose keys go stale: the key of a removed value finds nothing, never
//! the value that was put into its slot later. Used for devices, DTLS sessions and CoAP messages.
//!
//! Own code rather than the `slotmap` crate: lists through the values are linked by 4-byte indices
//! where `slotmap` needs its 8-byte keys (24 bytes more for each DTLS session), and the vector
//! grows by an eighth rather than twofold.

/// Generations run from 1 to here; then the first comes again. So a key packed as
/// `generation << 32 | index` is not 0 and below 2^62.
const GENERATIONS: u32 = 0x3fff_ffff;

/// Identifies a value: its slot, and which of the values put there it is. 8 bytes.
///
/// It may find another value after 2^30 values had the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Values in slots. Slots are used again, the one vacated last first; the memory is that of the
/// most values held at once: each takes 8 bytes beside itself.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// Index of the first vacant slot, [`NONE`] if there is none.
    vacant: u32,
    length: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Used(T),
    Vacant { next: u32 },
}

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

impl<T> Content<T> {
    fn value(&self) -> Option<&T> {
        match self {
            Content::Used(value) => Some(value),
            Content::Vacant { .. } => None,
        }
    }

    fn value_mut(&mut self) -> Option<&mut T> {
        match self {
            Content::Used(value) => Some(value),
            Content::Vacant { .. } => None,
        }
    }
}

impl<T> Slot<T> {
    /// The value, if `key` is its.
    fn of(&self, key: Key) -> Option<&T> {
        if self.generation == key.generation { self.content.value() } else { None }
    }

    fn of_mut(&mut self, key: Key) -> Option<&mut T> {
        if self.generation == key.generation { self.content.value_mut() } else { None }
    }

    /// Makes the keys of before stale.
    fn advance(&mut self) {
        self.generation = self.generation % GENERATIONS + 1;
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { slots: Vec::new(), vacant: NONE, length: 0 }
    }
}

impl<T> Slots<T> {
    /// How many values are held.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Makes room for `values` in all, and for no more.
    pub(crate) fn reserve(&mut self, values: usize) {
        self.slots.reserve_exact(values.saturating_sub(self.slots.len()));
    }

    /// Puts a value into a slot. The caller bounds how many there are, far below 2^32.
    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.length += 1;
        let index = self.vacant;
        if let Some(slot) = self.slots.get_mut(index as usize)
            && let Content::Vacant { next } = slot.content
        {
            self.vacant = next;
            slot.content = Content::Used(value);
            return Key { index, generation: slot.generation };
        }
        if self.slots.len() == self.slots.capacity() {
            // By an eighth: twice as many would mostly stay empty.
            self.slots.reserve_exact(self.slots.len() / 8 + 16);
        }
        let index = self.slots.len() as u32;
        self.slots.push(Slot { generation: 1, content: Content::Used(value) });
        Key { index, generation: 1 }
    }

    /// A value; `None` if the key is stale.
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        self.slots.get(key.index as usize)?.of(key)
    }

    /// A value; `None` if the key is stale.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.index as usize)?.of_mut(key)
    }

    /// Takes a value out; its key is stale from then on.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        slot.of(key)?;
        slot.advance();
        let content = std::mem::replace(&mut slot.content, Content::Vacant { next: self.vacant });
        self.vacant = key.index;
        self.length -= 1;
        match content {
            Content::Used(value) => Some(value),
            Content::Vacant { .. } => None,
        }
    }

    /// The key of the value that is in this slot now.
    pub(crate) fn key_at(&self, index: u32) -> Option<Key> {
        let slot = self.slots.get(index as usize)?;
        slot.content.value().map(|_| Key { index, generation: slot.generation })
    }

    /// The value that is in this slot now.
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.content.value()
    }

    /// The value that is in this slot now.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.content.value_mut()
    }

    /// All values, by their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().zip(0..).filter_map(|(slot, index)| {
            Some((Key { index, generation: slot.generation }, slot.content.value()?))
        })
    }

    /// All values, by their slots.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.slots.iter_mut().zip(0..).filter_map(|(slot, index)| {
            Some((Key { index, generation: slot.generation }, slot.content.value_mut()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_used_again_does_not_answer_to_its_old_key() {
        let mut slots = Slots::default();
        let a = slots.insert('a');
        let b = slots.insert('b');
        assert_eq!(slots.remove(a), Some('a'));
        assert_eq!(slots.remove(a), None);
        assert_eq!((slots.key_at(a.index), slots.at(a.index)), (None, None));
        let c = slots.insert('c');
        assert_eq!((c.index, slots.len()), (a.index, 2));
        assert_eq!((slots.get(a), slots.get(b), slots.get(c)), (None, Some(&'b'), Some(&'c')));
        assert_eq!(slots.get_mut(a), None);
        assert_eq!((slots.key_at(a.index), slots.at_mut(a.index)), (Some(c), Some(&mut 'c')));
    }

    #[test]
    fn the_slot_vacated_last_is_used_first_and_no_slot_is_lost() {
        let mut slots = Slots::default();
        let keys: Vec<Key> = (0..100).map(|n| slots.insert(n)).collect();
        for key in &keys[20..70] {
            slots.remove(*key);
        }
        let again: Vec<u32> = (0..50).map(|n| slots.insert(n).index).collect();
        assert_eq!(again, (20..70).rev().collect::<Vec<u32>>());
        assert_eq!((slots.len(), slots.insert(0).index), (100, 100));
    }

    #[test]
    fn the_last_generation_is_followed_by_the_first() {
        let mut slots = Slots::default();
        slots.insert('a');
        slots.slots[0].generation = GENERATIONS;
        let last = slots.key_at(0).unwrap();
        slots.remove(last);
        assert_eq!(slots.insert('b'), Key { index: 0, generation: 1 });
    }

    #[test]
    fn the_vector_grows_by_an_eighth_and_a_reservation_is_exact() {
        let mut slots = Slots::default();
        slots.reserve(1_000);
        for value in 0..1_000 {
            slots.insert(value);
        }
        assert_eq!(slots.slots.capacity(), 1_000);
        slots.insert(0);
        assert_eq!(slots.slots.capacity(), 1_000 + 125 + 16);
    }
}
