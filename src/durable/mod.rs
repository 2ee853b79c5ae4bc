//! State that survives a power cut: small files, each written whole or not at all, checked when
//! they are read, with a fall-back.
//!
//! It stands below the stages: whoever keeps a small file between two starts keeps it through this
//! module. Large and growing stores (the journal, the log of DTLS sessions) have formats of their
//! own.
//!
//! # What survives
//!
//! | at the moment of the cut | what is there afterwards |
//! |---|---|
//! | before the new content has its name | the old content under its name; a hidden file that [`sweep`](atomic_file::sweep) deletes |
//! | the name was given, the folder not yet synced | the old or the new content, whole |
//! | the folder was synced | the new content |
//! | with a copy, between the two names | the new content under the name, the old one in the copy |
//!
//! So at every moment at least one whole version is there, and with a copy at least one that is not
//! being replaced.
//!
//! # What is damage
//!
//! A file that was read successfully and is not what was written: empty, zeros, cut short, of
//! another kind, too large. It is read a second time, past the page cache, before that is believed.
//! Then the copy counts; the damaged file is set aside under a name of its own (`NAME.damaged-1`,
//! at most [`ASIDE_MAX`](atomic_file::ASIDE_MAX) of them), never deleted unseen.
//!
//! What the system does not hand over (EIO, EACCES) is **not** damage. It is tried again, then the
//! copy counts, and the file is neither set aside nor overwritten by what is older than it may be.
//!
//! [`atomic_file`] decides, over a [`StateFolder`](folder::StateFolder) that can be a disk in
//! memory; [`io`] has the real one.

pub mod atomic_file;
pub mod folder;
pub mod io;
