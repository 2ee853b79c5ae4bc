//! What the store needs of a disk; see [`crate::durable::storage`].

pub use crate::durable::storage::{Storage, StoredFile};
