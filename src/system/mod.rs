//! What only the operating system knows and more than one module needs: [`io`].

pub mod io;
