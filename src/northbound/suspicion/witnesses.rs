//! The newest readings that were taken: witnesses that the broker takes readings while it refuses
//! those of one topic.

use super::TopicKey;

/// The newest send numbers taken on two topics. Only the newest of each topic matters, and of
/// topics the newest two.
#[derive(Debug, Default)]
pub struct Witnesses([Option<(TopicKey, u64)>; 2]);

impl Witnesses {
    /// The reading sent under the number `serial` was taken.
    pub fn note_taken(&mut self, topic: TopicKey, serial: u64) {
        let [first, second] = &mut self.0;
        match first {
            Some((known, newest)) if *known == topic => *newest = serial.max(*newest),
            _ => *second = first.replace((topic, serial)),
        }
    }

    /// Whether a reading on another topic, sent after `serial`, was taken.
    pub fn has_another_after(&self, topic: TopicKey, serial: u64) -> bool {
        self.0.iter().flatten().any(|(known, newest)| *known != topic && *newest > serial)
    }
}
