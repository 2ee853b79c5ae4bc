//! The key that seals: drawn once, and kept beside what it seals.

use std::io;

use zeroize::Zeroizing;

use crate::durable::atomic_file::{AtomicFile, Condition, Defect, sweep};
use crate::durable::io::OnDisk;
use crate::proto::dtls::server::export::StoreKey;
use crate::session_store::storage::Storage;
use crate::system::io::fill_random;

const NAME: &str = "key";
/// A later minor version may have more to say behind its end.
const MAX_BYTES: u64 = 4096;
/// Without a copy: what it seals is not worth one.
const FILE: AtomicFile<'_> = AtomicFile::new(NAME, MAX_BYTES, 0o600);
const MAGIC: [u8; 4] = *b"TBSK";
const MAJOR: u8 = 1;
const MINOR: u8 = 0;
const SIZE: usize = 44;

/// What a sound file holds.
enum Held {
    /// The key.
    Key(StoreKey),
    /// That of another major version.
    OtherVersion,
}

/// What was found.
pub(super) struct KeptKey {
    /// The key.
    pub(super) key: StoreKey,
    /// It is another than before: nobody can open the log.
    pub(super) is_new: bool,
    /// What was wrong with the one before, in one sentence.
    pub(super) defect: Option<String>,
}

/// The key as it was kept, else a new one. A damaged one is set aside.
pub(super) fn load_or_make<S: Storage>(storage: &S, folder: &OnDisk) -> io::Result<KeptKey> {
    // What a start left that was killed in the middle; if it cannot be deleted now, then by the
    // next.
    let _ = sweep(folder, NAME);
    let retrieved = FILE.read(folder, parse);
    let is_wrong = |defect: &&Defect| defect.condition != Condition::Missing;
    let defect = retrieved.defects.iter().find(is_wrong).map(ToString::to_string);
    let may_be_replaced = retrieved.may_be_replaced();
    // It is good and there is nothing to do, or there is none.
    FILE.mend(folder, &retrieved)?;
    match retrieved.value {
        Some(Held::Key(key)) => return Ok(KeptKey { key, is_new: false, defect }),
        Some(Held::OtherVersion) => {
            for name in [NAME, super::super::log::NAME] {
                move_aside(storage, name)?;
            }
        }
        // It may be readable tomorrow.
        None if !may_be_replaced => return Err(io::Error::other(defect.unwrap_or_default())),
        None => {}
    }
    make(folder).map(|key| KeptKey { key, is_new: true, defect })
}

fn parse(bytes: &[u8]) -> Result<Held, String> {
    let bytes = bytes.first_chunk::<SIZE>().ok_or("it is cut short")?;
    if bytes[..4] != MAGIC || bytes[40..] != crc32c::crc32c(&bytes[..40]).to_le_bytes() {
        return Err("its checksum is wrong".to_owned());
    }
    Ok(if bytes[4] == MAJOR { Held::Key(key(bytes)) } else { Held::OtherVersion })
}

fn make(folder: &OnDisk) -> io::Result<StoreKey> {
    let mut bytes = Zeroizing::new([0; SIZE]);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&[MAJOR, MINOR]);
    fill_random(&mut bytes[8..40])?;
    let crc = crc32c::crc32c(&bytes[..40]);
    bytes[40..].copy_from_slice(&crc.to_le_bytes());
    FILE.write(folder, &bytes[..])?;
    Ok(key(&bytes))
}

fn key(bytes: &[u8; SIZE]) -> StoreKey {
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(&bytes[8..40]);
    StoreKey::new(&key)
}

fn move_aside<S: Storage>(storage: &S, name: &str) -> io::Result<()> {
    let free = |aside: &String| !storage.has(aside);
    let aside = (1u32..).map(|n| format!("{name}.unknown-{n}")).find(free);
    match storage.rename(name, &aside.unwrap_or_else(|| format!("{name}.unknown"))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => storage.sync_names(),
    }
}
