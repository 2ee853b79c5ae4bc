//! The MQTT user name and password of a device.
//!
//! | kind | for | costs |
//! |---|---|---|
//! | [`PasswordHash::Sha256`] | passwords that were generated, of at least 128 random bits | 1 µs |
//! | [`PasswordHash::Argon2id`] | passwords that a person chose (RFC 9106) | memory and tens of milliseconds: never on the path's thread |
//! | [`PasswordHash::Sha512`] | those of a mosquitto's password file | as it was chosen there |
//!
//! A generated password cannot be guessed, so a fast hash is enough: the hash protects it from a
//! reader of the file. A chosen one can be guessed, so each guess has to cost.

use std::fmt;
use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256, SHA512};
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA512};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// Longest user name, in bytes.
pub const USERNAME_MAX: usize = 255;
/// Longest password, in bytes.
pub const PASSWORD_MAX: usize = 255;
/// Longest text of a [`PasswordHash`], in bytes.
pub const HASH_TEXT_MAX: usize = 255;
/// Bytes of a salt.
pub const SALT_LENGTH: usize = 16;
/// Bytes of a hash.
const HASH_LENGTH: usize = 32;
/// Bytes of SHA-512.
const SHA512_LENGTH: usize = 64;
/// Most iterations of PBKDF2 that a hash in a file may cost.
const ITERATIONS_MAX: u32 = 1_000_000;
/// Memory of a new Argon2id hash in KiB, its passes and lanes: OWASP's second choice, which a small
/// board computes in about 100 ms.
const ARGON_NEW: (u32, u32, u32) = (19_456, 2, 1);
/// The most that a hash in a file may cost: KiB, passes, lanes.
const ARGON_MAX: (u32, u32, u32) = (65_536, 8, 4);

/// A piece of this many bytes goes back to the system when it is freed. glibc takes smaller ones
/// from an arena once one of their size was freed, and each thread that ever hashed keeps its own:
/// its dynamic threshold rises to 32 MiB.
const PIECE: usize = 33 << 20;

/// The user name and the hash of the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The MQTT user name, `1..=255` bytes; default the device id.
    pub username: String,
    /// The hash of the password.
    pub password: PasswordHash,
}

impl Login {
    /// Tells it from every other user name and hash of a password.
    pub fn fingerprint(&self) -> [u8; HASH_LENGTH] {
        let mut context = Context::new(&SHA256);
        // No hash as text holds a NUL, so where it ends is certain.
        context.update(self.password.to_string().as_bytes());
        context.update(&[0]);
        context.update(self.username.as_bytes());
        let mut hash = [0; HASH_LENGTH];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login {{ username: {:?}, password: hidden }}", self.username)
    }
}

/// The hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub enum PasswordHash {
    /// SHA-256 of salt and password.
    Sha256 {
        /// Random bytes.
        salt: [u8; SALT_LENGTH],
        /// The hash.
        hash: [u8; HASH_LENGTH],
    },
    /// As `mosquitto_passwd` makes it: PBKDF2 with HMAC-SHA-512 (RFC 8018 §5.2), or SHA-512 of
    /// password and salt.
    Sha512 {
        /// Iterations of PBKDF2; `None` = SHA-512 once.
        iterations: Option<NonZeroU32>,
        /// Random bytes, `1..=64`.
        salt: Vec<u8>,
        /// The hash.
        hash: [u8; SHA512_LENGTH],
    },
    /// Argon2id, version 0x13.
    Argon2id {
        /// KiB of memory, passes, lanes.
        cost: (u32, u32, u32),
        /// Random bytes, `8..=64`.
        salt: Vec<u8>,
        /// The hash.
        hash: [u8; HASH_LENGTH],
    },
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PasswordHash::Sha256 { .. } => "Sha256(hidden)",
            PasswordHash::Sha512 { .. } => "Sha512(hidden)",
            PasswordHash::Argon2id { .. } => "Argon2id(hidden)",
        })
    }
}

impl PasswordHash {
    /// The hash of a generated password.
    pub fn of_generated(password: &[u8], salt: [u8; SALT_LENGTH]) -> PasswordHash {
        PasswordHash::Sha256 { salt, hash: sha256(&salt, password) }
    }

    /// The hash of a chosen password: takes about 100 ms and 19 MiB.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn of_chosen(password: &[u8], salt: [u8; SALT_LENGTH]) -> Result<PasswordHash, &'static str> {
        let hash = argon2id(ARGON_NEW, &salt, password).ok_or("not enough memory to hash the password")?;
        Ok(PasswordHash::Argon2id { cost: ARGON_NEW, salt: salt.to_vec(), hash })
    }

    /// Parses `sha256:SALT:HASH` or `$argon2id$v=19$m=…,t=…,p=…$SALT$HASH`, salt and hash in base64
    /// without padding; or `$7$ITERATIONS$SALT$HASH` or `$6$SALT$HASH` with padding.
    pub fn parse(text: &str) -> Option<PasswordHash> {
        if let Some(rest) = text.strip_prefix("sha256:") {
            let (salt, hash) = rest.split_once(':')?;
            let (salt, hash) = (STANDARD_NO_PAD.decode(salt).ok()?, STANDARD_NO_PAD.decode(hash).ok()?);
            let (salt, hash) = (salt.try_into().ok()?, hash.try_into().ok()?);
            return Some(PasswordHash::Sha256 { salt, hash });
        }
        if let Some(rest) = text.strip_prefix("$7$") {
            let (iterations, rest) = rest.split_once('$')?;
            let iterations = iterations.parse().ok().filter(|count| (1..=ITERATIONS_MAX).contains(count))?;
            return mosquitto(NonZeroU32::new(iterations), rest);
        }
        if let Some(rest) = text.strip_prefix("$6$") {
            return mosquitto(None, rest);
        }
        let mut parts = text.strip_prefix("$argon2id$v=19$")?.split('$');
        let (costs, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        let mut costs = costs.split(',');
        let mut cost = |name: &str, max: u32| {
            let value: u32 = costs.next()?.strip_prefix(name)?.parse().ok()?;
            (1..=max).contains(&value).then_some(value)
        };
        let cost = (cost("m=", ARGON_MAX.0)?, cost("t=", ARGON_MAX.1)?, cost("p=", ARGON_MAX.2)?);
        if costs.next().is_some() || parts.next().is_some() || cost.0 < 8 * cost.2 {
            return None;
        }
        let salt = STANDARD_NO_PAD.decode(salt).ok().filter(|salt| (8..=64).contains(&salt.len()))?;
        let hash = STANDARD_NO_PAD.decode(hash).ok()?.try_into().ok()?;
        Some(PasswordHash::Argon2id { cost, salt, hash })
    }

    /// Whether [`PasswordHash::verify`] takes long and much memory.
    pub fn is_costly(&self) -> bool {
        !matches!(self, PasswordHash::Sha256 { .. })
    }

    /// Whether this is the password. Takes as long whether it is or not.
    pub fn verify(&self, password: &[u8]) -> bool {
        if password.len() > PASSWORD_MAX {
            return false;
        }
        if let PasswordHash::Sha512 { iterations, salt, hash } = self {
            return match iterations {
                Some(iterations) => {
                    pbkdf2::verify(PBKDF2_HMAC_SHA512, *iterations, salt, password, hash).is_ok()
                }
                None => {
                    let mut context = Context::new(&SHA512);
                    context.update(password);
                    context.update(salt);
                    verify_slices_are_equal(hash, context.finish().as_ref()).is_ok()
                }
            };
        }
        let (expected, found) = match self {
            PasswordHash::Sha512 { .. } => return false, // above
            PasswordHash::Sha256 { salt, hash } => (hash, Some(sha256(salt, password))),
            PasswordHash::Argon2id { cost, salt, hash } => (hash, argon2id(*cost, salt, password)),
        };
        found.is_some_and(|found| verify_slices_are_equal(expected, &found).is_ok())
    }
}

impl fmt::Display for PasswordHash {
    /// The form that [`PasswordHash::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordHash::Sha256 { salt, hash } => {
                write!(f, "sha256:{}:{}", STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash))
            }
            PasswordHash::Sha512 { iterations, salt, hash } => {
                let (salt, hash) = (STANDARD.encode(salt), STANDARD.encode(hash));
                match iterations {
                    Some(iterations) => write!(f, "$7${iterations}${salt}${hash}"),
                    None => write!(f, "$6${salt}${hash}"),
                }
            }
            PasswordHash::Argon2id { cost: (memory, passes, lanes), salt, hash } => {
                let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
                write!(f, "$argon2id$v=19$m={memory},t={passes},p={lanes}${salt}${hash}")
            }
        }
    }
}

/// Salt and hash of a hash of mosquitto's.
fn mosquitto(iterations: Option<NonZeroU32>, rest: &str) -> Option<PasswordHash> {
    let (salt, hash) = rest.split_once('$')?;
    let salt = STANDARD.decode(salt).ok().filter(|salt| (1..=64).contains(&salt.len()))?;
    let hash = STANDARD.decode(hash).ok()?.try_into().ok()?;
    Some(PasswordHash::Sha512 { iterations, salt, hash })
}

fn sha256(salt: &[u8], password: &[u8]) -> [u8; HASH_LENGTH] {
    let mut context = Context::new(&SHA256);
    context.update(salt);
    context.update(password);
    let mut hash = [0; HASH_LENGTH];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// `None` if there is not enough memory, or the costs are outside of Argon2's own bounds.
fn argon2id(cost: (u32, u32, u32), salt: &[u8], password: &[u8]) -> Option<[u8; HASH_LENGTH]> {
    let params = Params::new(cost.0, cost.1, cost.2, Some(HASH_LENGTH)).ok()?;
    let mut hash = [0; HASH_LENGTH];
    let mut memory = memory(params.block_count())?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into_with_memory(password, salt, &mut hash, &mut memory[..]).ok()?;
    Some(hash)
}

/// Zeroed memory for a hash, in a piece of [`PIECE`] of which only so many blocks are touched.
fn memory(blocks: usize) -> Option<Vec<Block>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(blocks.max(PIECE / Block::SIZE)).ok()?;
    memory.resize(blocks, Block::new());
    Some(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_as_it_was_written_and_takes_its_password_alone() {
        let chosen = PasswordHash::of_chosen(b"swordfish", [7; 16]).expect("memory");
        for hash in [PasswordHash::of_generated(b"swordfish", [7; 16]), chosen] {
            let text = hash.to_string();
            assert!(text.len() <= HASH_TEXT_MAX && !text.contains("swordfish"), "{text}");
            assert_eq!(PasswordHash::parse(&text).as_ref(), Some(&hash));
            assert!(hash.verify(b"swordfish"));
            for wrong in [&b""[..], b"swordfis", b"swordfish\0", &[b's'; 300]] {
                assert!(!hash.verify(wrong));
            }
        }
    }

    /// In an arena it would stay mapped. In a process of its own, since the thread of another test
    /// may map something there at once.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn the_memory_of_a_hash_goes_back_to_the_system_each_time() {
        const ALONE: &str = "TOMBOLO_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "gate::login::tests::the_memory_of_a_hash_goes_back_to_the_system_each_time";
            let mut alone = std::process::Command::new(std::env::current_exe().expect("this program"));
            let ended = alone.args([name, "--exact"]).env(ALONE, "1").output().expect("it starts again");
            let said = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let is_mapped = |at: usize| {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("the mappings of this process");
            maps.lines().any(|line| {
                let range = line.split(' ').next().and_then(|range| range.split_once('-'));
                let hex = |text: &str| usize::from_str_radix(text, 16).expect("an address");
                range.is_some_and(|(start, end)| (hex(start)..hex(end)).contains(&at))
            })
        };
        let goes_back = || {
            let memory = memory(ARGON_NEW.0 as usize).expect("memory");
            let middle = &raw const memory[memory.len() / 2] as usize;
            assert!(is_mapped(middle));
            drop(memory);
            !is_mapped(middle)
        };
        // The first one of a size goes back in any case.
        goes_back();
        assert!((0..5).all(|_| goes_back()));
    }

    #[test]
    fn a_hash_of_another_program_is_understood() {
        // `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -e`
        let text = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(PasswordHash::parse(text).expect("a hash").verify(b"password"));
    }

    #[test]
    fn hashes_of_mosquitto_are_understood() {
        // `mosquitto_passwd -U` 2.0, with and without `-H sha512`, of the password `secret`.
        for text in [
            "$7$101$oGB4I/cYdnwLBuJr$FwP87im51rvl/wRx64yBq4i4ahrRI7eAuRa3tfWF8ndg/wU3hbcV74f+ZCi+oZjGpCoqA2jGAA3qeNY938K69w==",
            "$6$X2+qR+Df/6783hoY$CEbJvWEEyhj+TJoVQViByQZt8PE+djLquP7ikAau61Mze/AuFjmY8NZcNjgV9HfZUBIdkqQ3+26TDr9M+jcoDA==",
        ] {
            let hash = PasswordHash::parse(text).expect("a hash");
            assert!(hash.verify(b"secret") && !hash.verify(b"Secret") && hash.is_costly());
            assert_eq!(hash.to_string(), text);
            assert_eq!(PasswordHash::parse(&text[..text.len() - 4]), None);
        }
        assert_eq!(PasswordHash::parse("$7$0$YWJj$YWJj"), None);
        assert_eq!(PasswordHash::parse("$7$99999999$YWJj$YWJj"), None);
    }

    #[test]
    fn what_is_no_hash_or_would_cost_too_much_is_refused() {
        let good = PasswordHash::of_generated(b"x", [0; 16]).to_string();
        for text in [
            "",
            "x",
            "sha256:",
            &good[..good.len() - 1],
            "$argon2id$v=19$m=99999999,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65536,t=9,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFh",
            "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        ] {
            assert_eq!(PasswordHash::parse(text), None, "{text}");
        }
    }
}
