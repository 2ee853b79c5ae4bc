//! Frames of labelled lines: whether one is whole, where its checksum is too short to tell.
//!
//! One of 256 frames whose middle was lost passes a checksum of 8 bits. But a device sends the same
//! lines again and again: one kind of frame, or a few in turn. So a frame counts only if it has
//! each label once, and the same labels in the same order as one before it: the first of each kind
//! is not used.

use std::collections::VecDeque;

/// Kinds of frames that are known at most; of more, those seen longest ago are forgotten.
const KINDS_MAX: usize = 8;
/// Most places in one frame at which another may begin.
const RESTARTS_MAX: usize = 8;

/// The kinds of frames of a device.
#[derive(Debug)]
pub(super) struct Labels {
    end: u8,
    /// The labels of each kind, joined; the one seen last at the end.
    kinds: VecDeque<Vec<u8>>,
}

fn lines(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    frame.split(|byte| matches!(byte, b'\r' | b'\n')).filter(|line| !line.is_empty())
}

impl Labels {
    pub(super) fn new(end: u8) -> Labels {
        Labels { end, kinds: VecDeque::new() }
    }

    fn label<'l>(&self, line: &'l [u8]) -> Option<&'l [u8]> {
        line.iter().position(|byte| *byte == self.end).and_then(|at| line.get(..at))
    }

    /// Whether a frame is one of a kind that was seen before. It is from now on.
    pub(super) fn judge(&mut self, frame: &[u8]) -> bool {
        let mut all: Vec<&[u8]> = lines(frame).filter_map(|line| self.label(line)).collect();
        let kind = all.join(&self.end);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        if count == 0 || all.len() < count {
            return false;
        }
        let known = self.kinds.iter().position(|other| *other == kind);
        match known {
            Some(at) => drop(self.kinds.remove(at)),
            None if self.kinds.len() == KINDS_MAX => drop(self.kinds.pop_front()),
            None => {}
        }
        self.kinds.push_back(kind);
        known.is_some()
    }

    /// Where in this frame, behind its beginning, another may begin: before the lines with the
    /// label that a known kind begins with. The last first.
    pub(super) fn restarts(&self, frame: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let mut found = VecDeque::new();
        let (mut at, mut line_end) = (0, 0);
        for line in frame.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
            let label = self.label(line).filter(|label| !label.is_empty());
            let begins = label.is_some_and(|label| {
                // Without a search for the end of what may be long.
                let is_first = |kind: &Vec<u8>| match kind.strip_prefix(label) {
                    Some(rest) => rest.first().is_none_or(|byte| *byte == self.end),
                    None => false,
                };
                self.kinds.iter().any(is_first)
            });
            if begins && line_end > 0 {
                if found.len() == RESTARTS_MAX {
                    found.pop_front();
                }
                found.push_back(line_end);
            }
            // A frame begins with the line end before its first line.
            if line.len() > 1 {
                line_end = at + line.len() - 1;
            }
            at += line.len();
        }
        found.into_iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_counts_if_its_labels_were_seen_before_and_are_each_in_it_once() {
        let mut labels = Labels::new(b'\t');
        assert!(!labels.judge(b"\r\nA\t1\r\nB\t2\r\n"), "the first of its kind");
        assert!(labels.judge(b"\r\nA\t3\r\nB\t4\r\n"));
        assert!(!labels.judge(b"\r\nA\t3\r\nB\t4\r\nA\t5\r\n"), "a label twice");
        assert!(!labels.judge(b"\r\nA\t3\r\n"), "cut");
        assert!(!labels.judge(b"\r\nB\t3\r\nA\t1"), "joined");
        assert!(!labels.judge(b"1234") && !labels.judge(b""));
        // A device may send kinds in turn.
        assert!(!labels.judge(b"\nH1\t0\nH2\t0"));
        for _ in 0..3 {
            assert!(labels.judge(b"\r\nA\t3\r\nB\t4\r\n"));
            assert!(labels.judge(b"\nH1\t0\nH2\t0"));
        }
        for kind in 0..100 {
            labels.judge(format!("\nX{kind}\t1").as_bytes());
        }
        assert_eq!(labels.kinds.len(), KINDS_MAX);
    }

    #[test]
    fn another_frame_may_begin_at_the_line_end_before_a_first_label() {
        let mut labels = Labels::new(b'\t');
        labels.judge(b"\r\nA\t1\r\nB\t2");
        let joined = b"\r\nA\t1\r\nB\r\nA\t1\r\nB\t2";
        let at: Vec<usize> = labels.restarts(joined).collect();
        assert_eq!(at, [8]);
        assert_eq!(&joined[8..], b"\r\nA\t1\r\nB\t2");
        assert_eq!(labels.restarts(&b"\nA\t".repeat(100)).count(), RESTARTS_MAX);
    }
}
