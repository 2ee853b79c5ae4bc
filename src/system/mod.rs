//! What only the operating system knows and more than one module needs: [`io`] asks it, [`mounts`]
//! reads its answer.

pub mod io;
pub mod mounts;
