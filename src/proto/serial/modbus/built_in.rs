//! Whether this program was built with the cargo feature `modbus`.
//!
//! A bus is only made of settings that hold a [`BuiltIn`]. Without the feature there is none, so
//! the compiler leaves out all that needs one; the files' keys stay known, and are refused by name.

/// Proof that this program was built with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltIn(Proof);

#[cfg(feature = "modbus")]
type Proof = ();
#[cfg(not(feature = "modbus"))]
type Proof = std::convert::Infallible;

impl BuiltIn {
    /// The error where it is wanted and there is none.
    pub const ABSENT: &str = "this program was built without Modbus";

    /// The proof, if there is one.
    pub const fn here() -> Option<BuiltIn> {
        #[cfg(feature = "modbus")]
        return Some(BuiltIn(()));
        #[cfg(not(feature = "modbus"))]
        return None;
    }
}
