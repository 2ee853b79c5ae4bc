//! The key that seals: drawn once, and kept beside what it seals.

use std::io;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::proto::dtls::server::export::StoreKey;
use crate::southbound::coap::sessions::storage::{Storage, StoredFile};

const NAME: &str = "key";
const NEW: &str = "key.new";
const MAGIC: [u8; 4] = *b"TBSK";
const MAJOR: u8 = 1;
const MINOR: u8 = 0;
const SIZE: usize = 44;

/// The key, and whether it is another than before.
pub(super) fn load_or_make<S: Storage>(storage: &S) -> io::Result<(StoreKey, bool)> {
    let mut bytes = Zeroizing::new([0; SIZE]);
    let read = match storage.open(NAME) {
        // One that cannot be read at all may be readable tomorrow: it is not replaced.
        Ok((file, _)) => file.read_at(0, &mut bytes[..])?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if read == SIZE && bytes[..4] == MAGIC && bytes[40..] == crc32c::crc32c(&bytes[..40]).to_le_bytes() {
        if bytes[4] == MAJOR {
            return Ok((key(&bytes), false));
        }
        for name in [NAME, super::super::log::NAME] {
            move_aside(storage, name)?;
        }
    }
    make(storage).map(|key| (key, true))
}

fn make<S: Storage>(storage: &S) -> io::Result<StoreKey> {
    let mut bytes = Zeroizing::new([0; SIZE]);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&[MAJOR, MINOR]);
    let no_chance = |_| io::Error::other("the system gives no random numbers");
    SystemRandom::new().fill(&mut bytes[8..40]).map_err(no_chance)?;
    let crc = crc32c::crc32c(&bytes[..40]);
    bytes[40..].copy_from_slice(&crc.to_le_bytes());
    let file = storage.create(NEW)?;
    file.write_at(0, &bytes[..])?;
    file.sync()?;
    storage.rename(NEW, NAME)?;
    storage.sync_names()?;
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
