//! What must survive a power cut, written once.
//!
//! It stands below the stages. Whatever is kept between two starts is kept through one of these:
//!
//! | primitive | for | a write costs | used by |
//! |---|---|---|---|
//! | [`atomic_file`] | a small text that is written rarely or read by people | a new file, a rename, two syncs | clock floor, gateway id, device registry, devices of fleets, key of the session store |
//! | [`two_slot`] | a small record that is written often | one write, one sync | nothing yet |
//! | [`append_log`], of [`frame`]s | records that come and go one by one | one write, one sync; a rewrite when most is of no use | session store |
//!
//! They decide over a [`StateFolder`](folder::StateFolder) or a [`Storage`](storage::Storage), each
//! of which can be a disk in memory that loses power at any call (tests/durable); [`io`] has the
//! real ones. The rules they share: old or new, never neither; damage is what was read and does not
//! check twice; what the disk does not give (EIO, EACCES) is not damage, and nothing older is
//! written over it (docs/decisions/0020-read-errors-are-not-losses.md).
//!
//! **The journal has a format of its own** (docs/journal-format.md), and shares only the checksum
//! (CRC-32C):
//! * Its frames hold what devices chose to send. Their CRCs begin with a seed of their segment, so
//!   that no payload, and no leftover of a recycled file, passes for a frame in a search behind
//!   damage. A [`frame`] has a fixed marker instead, which is enough where content is sealed or
//!   the gateway's own.
//! * Its segments are preallocated and recycled, larger than memory, and read through windows by a
//!   thread of their own; an append log is read whole at the start.
//! * Its frames begin at multiples of 8 and have a CRC for the header alone, so that a search costs
//!   20 bytes of CRC at each place; an append log is small enough for one CRC over the whole.
//! * Its witness has two slots, but is never synced: it may be behind, and must cost no flash.
//!
//! # An atomic file: what survives
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
//! # An atomic file: what is damage
//!
//! A file that was read successfully and is not what was written: empty, zeros, cut short, of
//! another kind, too large. It is read a second time, past the page cache, before that is believed.
//! Then the copy counts; the damaged file is set aside under a name of its own (`NAME.damaged-1`,
//! at most [`ASIDE_MAX`](atomic_file::ASIDE_MAX) of them), never deleted unseen.
//!
//! What the system does not hand over (EIO, EACCES) is **not** damage. It is tried again, then the
//! copy counts, and the file is neither set aside nor overwritten by what is older than it may be.

pub mod append_log;
pub mod atomic_file;
pub mod checked_text;
pub mod folder;
pub mod frame;
pub mod io;
pub mod storage;
pub mod two_slot;
