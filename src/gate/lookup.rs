//! Several members of a document, looked up in one pass over it, in JSON or CBOR.
//!
//! What is found is told to a [`Sink`] as it comes, so nothing is kept here. The work is linear in
//! the payload, times the number of pointers at most; a document that is nested too deep is none.

use super::pointer::FieldPointer;

/// Most pointers of a [`Lookup`].
pub(super) const POINTERS_MAX: usize = Mask::BITS as usize;

/// Some of the pointers of a [`Lookup`], by bits.
pub(super) type Mask = u16;

/// What stands at a pointer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'d> {
    /// From -2^64 to 2^64-1.
    Integer(i128),
    Float(f64),
    Flag(bool),
    Text(&'d str),
    /// A map, an array, null, or what JSON does not have.
    Other,
}

impl Scalar<'_> {
    /// The number, if it is a finite one.
    pub(super) fn number(self) -> Option<f64> {
        match self {
            Scalar::Integer(number) => Some(number as f64),
            Scalar::Float(number) => Some(number).filter(|number| number.is_finite()),
            _ => None,
        }
    }
}

/// What is told of what is found.
pub(super) trait Sink {
    /// What was told of these does not count any more: a member with the name of an earlier one
    /// comes, and the last counts.
    fn forget(&mut self, which: Mask);

    /// This stands at each of these.
    fn take(&mut self, which: Mask, found: Scalar<'_>);
}

/// At most [`POINTERS_MAX`] pointers.
#[derive(Clone, Copy)]
pub(super) struct Lookup<'p>(&'p [FieldPointer]);

impl<'p> Lookup<'p> {
    /// Of more than [`POINTERS_MAX`] the first ones are looked up.
    pub(super) fn new(pointers: &'p [FieldPointer]) -> Lookup<'p> {
        Lookup(pointers.get(..POINTERS_MAX).unwrap_or(pointers))
    }

    pub(super) fn one(pointer: &'p FieldPointer) -> Lookup<'p> {
        Lookup(std::slice::from_ref(pointer))
    }

    pub(super) fn all(self) -> Mask {
        self.those(Mask::MAX, |_| true)
    }

    /// Those that end below `depth` levels.
    pub(super) fn ending(self, of: Mask, depth: usize) -> Mask {
        self.those(of, |pointer| pointer.depth() == depth)
    }

    /// Those that go on, below `depth` levels, in the member of this name.
    pub(super) fn in_member(self, of: Mask, depth: usize, name: &str) -> Mask {
        self.those(of, |pointer| pointer.is_name(depth, name))
    }

    /// Those that go on, below `depth` levels, in the element with this index.
    pub(super) fn in_element(self, of: Mask, depth: usize, index: u64) -> Mask {
        self.those(of, |pointer| pointer.is_index(depth, index))
    }

    fn those(self, of: Mask, is_one: impl Fn(&FieldPointer) -> bool) -> Mask {
        if of == 0 {
            return 0;
        }
        let bits = self.0.iter().enumerate().map(|(at, pointer)| (1 << at, pointer));
        bits.filter(|(bit, pointer)| of & bit != 0 && is_one(pointer)).fold(0, |mask, (bit, _)| mask | bit)
    }
}
