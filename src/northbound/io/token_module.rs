//! The module behind a token: loaded, logged in to, asked. It lives on the token's own thread.

use std::path::Path;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::{Answer, Question};
use crate::durable::atomic_file::AtomicFile;
use crate::durable::io::regular;
use crate::durable::io::{OnDisk, create_directory};
use crate::northbound::pin_mark::{Attempt, PinMark, SALT_LENGTH};
use crate::northbound::settings::TokenSettings;
use crate::northbound::token_key::{ID_LENGTH, P256_PARAMETERS, TokenKey};

/// A module that failed is not loaded again sooner.
const RELOAD_AFTER: Duration = Duration::from_secs(30);
/// The mark of a PIN.
const MARK: AtomicFile<'static> = AtomicFile::new("pin-tried", 4096, 0o600);
/// Longest PIN, in bytes.
const PIN_MAX: usize = 255;

/// The module, loaded or not.
pub struct Module {
    settings: TokenSettings,
    open: Option<Open>,
    /// How it failed last.
    failed: Option<Failed>,
}

struct Failed {
    at: Instant,
    text: String,
    /// The PIN's file as it was then.
    pin: Option<Stamp>,
}

/// What shows that a file was replaced or written.
#[derive(PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(file).ok()?;
        Some(Stamp {
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

struct Open {
    /// Closed before the module is finalised.
    session: Session,
    pkcs11: Pkcs11,
    description: String,
}

/// What went wrong.
enum Fault {
    /// The module is to be loaded anew.
    Fatal(String),
    /// It is as before.
    Answered(String),
}

impl Module {
    /// Nothing is loaded yet.
    pub fn new(settings: TokenSettings) -> Module {
        Module { settings, open: None, failed: None }
    }

    /// Answers one question. It blocks for as long as the module does.
    pub fn answer(&mut self, question: &Question) -> Result<Answer, String> {
        // Of before: what is written meanwhile is tried again.
        let pin = Stamp::of(&self.settings.pin_file);
        match self.try_answer(question) {
            Ok(answer) => Ok(answer),
            Err(Fault::Answered(text)) => Err(text),
            Err(Fault::Fatal(text)) => {
                self.close();
                self.failed = Some(Failed { at: Instant::now(), text: text.clone(), pin });
                Err(text)
            }
        }
    }

    fn close(&mut self) {
        if let Some(Open { session, pkcs11, .. }) = self.open.take() {
            drop(session);
            // One that fails at this too is loaded anew all the same.
            let _ = pkcs11.finalize();
        }
    }

    fn try_answer(&mut self, question: &Question) -> Result<Answer, Fault> {
        if self.open.is_none() {
            // Somebody may have put the right PIN there.
            if let Some(Failed { at, text, pin }) = &self.failed
                && *pin == Stamp::of(&self.settings.pin_file)
                && let Some(left) = RELOAD_AFTER.checked_sub(at.elapsed())
            {
                return Err(Fault::Answered(format!("{text}; tried again in {} s", left.as_secs() + 1)));
            }
            self.open = Some(open(&self.settings)?);
            self.failed = None;
        }
        let Some(open) = &self.open else { return Err(Fault::Answered("the module is not open".to_owned())) };
        let answer = ask(&open.session, question, &self.settings.label, &open.description)?;
        // After C_DestroyObject tpm2-pkcs11 1.9 signs with an object that is gone, over which the
        // TPM goes into its failure mode. Loaded anew it does not.
        if matches!(answer, Answer::Removed(1..)) {
            self.close();
        }
        Ok(answer)
    }
}

fn ask(session: &Session, question: &Question, token: &str, description: &str) -> Result<Answer, Fault> {
    let failed = |what: &'static str| move |error: Error| fault(what, &error);
    match question {
        Question::Look => {
            // The session shows that the token is there.
            session.get_session_info().map_err(failed("asked for its state"))?;
            Ok(Answer::Description(description.to_owned()))
        }
        Question::Sign { id, digest } => {
            // Looked for each time: it may have been made by another process.
            let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id.to_vec())];
            let found = session.find_objects(&wanted).map_err(failed("asked for the key"))?;
            let Some(key) = found.first() else {
                let id = crate::hex::format_hex(id);
                return Err(Fault::Answered(format!(
                    "the token {token:?} has no key with the id {id} any more"
                )));
            };
            let signature = session.sign(&Mechanism::Ecdsa, *key, digest);
            Ok(Answer::Signature(signature.map_err(failed("asked to sign"))?))
        }
        Question::Generate { label, id } => {
            let public = [
                Attribute::Token(true),
                Attribute::Private(false),
                Attribute::Verify(true),
                Attribute::EcParams(P256_PARAMETERS.to_vec()),
                Attribute::Label(label.clone().into_bytes()),
                Attribute::Id(id.to_vec()),
            ];
            let private = [
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Sign(true),
                Attribute::Label(label.clone().into_bytes()),
                Attribute::Id(id.to_vec()),
            ];
            let made = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
            let (public, _) = made.map_err(failed("asked to make a key"))?;
            let read = session.get_attributes(public, &[AttributeType::EcPoint]);
            let read = read.map_err(failed("asked for the public key"))?;
            let point = read.into_iter().find_map(|attribute| match attribute {
                Attribute::EcPoint(point) => Some(point),
                _ => None,
            });
            let key = point.and_then(|point| TokenKey::of_point(*id, &point));
            let unreadable =
                || Fault::Answered("the public key that the token made cannot be read".to_owned());
            Ok(Answer::Key(key.ok_or_else(unreadable)?))
        }
        Question::Keep { label, ids } => {
            let wanted = [Attribute::Label(label.clone().into_bytes())];
            let found = session.find_objects(&wanted).map_err(failed("asked for the keys"))?;
            let mut removed = 0;
            for object in found {
                if is_surplus(session, object, ids) {
                    session.destroy_object(object).map_err(failed("asked to remove a key"))?;
                    removed += 1;
                }
            }
            Ok(Answer::Removed(removed))
        }
    }
}

/// Whether it is a key of ours whose id is not one of these.
fn is_surplus(session: &Session, object: ObjectHandle, ids: &[[u8; ID_LENGTH]]) -> bool {
    let Ok(read) = session.get_attributes(object, &[AttributeType::Class, AttributeType::Id]) else {
        return false;
    };
    let mut is_key = false;
    let mut own = None;
    for attribute in read {
        match attribute {
            Attribute::Class(class) => {
                is_key = matches!(class, ObjectClass::PRIVATE_KEY | ObjectClass::PUBLIC_KEY);
            }
            Attribute::Id(id) => own = <[u8; ID_LENGTH]>::try_from(id).ok(),
            _ => {}
        }
    }
    is_key && own.is_some_and(|own| !ids.contains(&own))
}

fn open(settings: &TokenSettings) -> Result<Open, Fault> {
    let shown = settings.module.display();
    let pkcs11 = Pkcs11::new(&settings.module).map_err(|error| {
        Fault::Fatal(format!("the PKCS #11 module {shown} cannot be loaded: {error}; see pkcs11-module"))
    })?;
    match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => {
            return Err(Fault::Fatal(format!(
                "the PKCS #11 module {shown} cannot be started: {}",
                short(&error)
            )));
        }
    }
    match log_in(&pkcs11, settings) {
        Ok((session, description)) => Ok(Open { session, pkcs11, description }),
        Err(fault) => {
            let _ = pkcs11.finalize();
            Err(fault)
        }
    }
}

fn log_in(pkcs11: &Pkcs11, settings: &TokenSettings) -> Result<(Session, String), Fault> {
    let fatal = |what: &'static str| move |error: Error| Fault::Fatal(fault(what, &error).text());
    let slots = pkcs11.get_slots_with_token().map_err(fatal("asked for its tokens"))?;
    let (slot, info) = find(pkcs11, &slots, &settings.label)?;
    let label = &settings.label;
    let pin_file = settings.pin_file.display();
    if info.user_pin_locked() {
        return Err(Fault::Fatal(format!(
            "the PIN of the token {label:?} is locked; its security officer has to set it anew"
        )));
    }
    let serial = info.serial_number().to_owned();
    let trimmed = |text: &str| text.trim_matches(['\0', ' ']).to_owned();
    let (maker, model) = (trimmed(info.manufacturer_id()), trimmed(info.model()));
    let description = format!("{label:?} ({maker} {model}, serial number {serial})");
    let pin = read_pin(&settings.pin_file).map_err(Fault::Fatal)?;
    let mark = Marks { folder: &settings.mark_folder, token: format!("{label}/{serial}") };
    let marked = mark.read();
    if marked.is_some_and(|marked| !marked.permits(&mark.token, pin.as_bytes(), info.user_pin_count_low())) {
        return Err(Fault::Fatal(format!(
            "the token {label:?} has refused the PIN in {pin_file}, which is not tried again; put the right one there"
        )));
    }
    if info.user_pin_final_try() {
        return Err(Fault::Fatal(format!(
            "one wrong PIN more locks the token {label:?}, so none is tried; log in once with another tool \
             (`pkcs11-tool --login --test`)"
        )));
    }
    // Without a mark a PIN is tried only where the token knows of no wrong one.
    let kept = mark.write(Attempt::Trying, pin.as_bytes());
    if let Err(error) = kept
        && info.user_pin_count_low()
    {
        return Err(Fault::Fatal(format!(
            "a wrong PIN was entered at the token {label:?}, and {} cannot be written to note another: {error}",
            settings.mark_folder.display()
        )));
    }
    let session = pkcs11.open_rw_session(slot).map_err(fatal("asked for a session"))?;
    match session.login(UserType::User, Some(&AuthPin::from(pin.to_string()))) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => mark.remove(),
        Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid, _)) => {
            // If this cannot be kept, the mark before and the token's own count say the same.
            let _ = mark.write(Attempt::Refused, pin.as_bytes());
            return Err(Fault::Fatal(format!(
                "the token {label:?} refuses the PIN in {pin_file}, which is not tried again; put the right one there"
            )));
        }
        Err(Error::Pkcs11(RvError::PinLocked, _)) => {
            return Err(Fault::Fatal(format!(
                "the PIN of the token {label:?} is locked; its security officer has to set it anew"
            )));
        }
        Err(error) => {
            // It was not the PIN.
            mark.remove();
            return Err(fatal("asked to log in")(error));
        }
    }
    Ok((session, description))
}

fn find(pkcs11: &Pkcs11, slots: &[Slot], label: &str) -> Result<(Slot, cryptoki::slot::TokenInfo), Fault> {
    let mut others = Vec::new();
    for slot in slots {
        // One that was pulled meanwhile is not there.
        let Ok(info) = pkcs11.get_token_info(*slot) else { continue };
        if info.label() == label {
            return Ok((*slot, info));
        }
        if info.token_initialized() && others.len() < 5 {
            others.push(format!("{:?}", info.label()));
        }
    }
    let there = if others.is_empty() {
        "there is none".to_owned()
    } else {
        format!("there are {}", others.join(", "))
    };
    Err(Fault::Fatal(format!(
        "no token has the label {label:?}: {there}; is it plugged in? see pkcs11-token"
    )))
}

/// Greatest file read for a PIN, in bytes.
const PIN_FILE_MAX: u64 = 65_536;

fn read_pin(path: &Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let bytes = regular::read(path, PIN_FILE_MAX).map_err(|fault| format!("{shown}: {fault}"))?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown}: is not text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text.len() {
        0 => Err(format!("{shown}: is empty")),
        1..=PIN_MAX => Ok(Zeroizing::new(text.to_owned())),
        length => Err(format!("{shown}: has {length} bytes; that is no PIN")),
    }
}

/// The mark on disk.
struct Marks<'s> {
    folder: &'s Path,
    token: String,
}

impl Marks<'_> {
    fn read(&self) -> Option<PinMark> {
        let judge = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|error| error.to_string());
        MARK.read(&OnDisk::new(self.folder), judge).value
    }

    fn write(&self, attempt: Attempt, pin: &[u8]) -> std::io::Result<()> {
        create_directory(self.folder)?;
        let mut salt = [0; SALT_LENGTH];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| std::io::Error::other("no random numbers"))?;
        let bytes = serde_json::to_vec(&PinMark::new(attempt, salt, &self.token, pin))?;
        MARK.write(&OnDisk::new(self.folder), &bytes)
    }

    fn remove(&self) {
        use crate::durable::folder::StateFolder as _;
        let folder = OnDisk::new(self.folder);
        // One that stays permits the PIN: it is marked as tried, and the token knows of no wrong
        // one.
        let _ = folder.remove("pin-tried").and_then(|()| folder.sync_names());
    }
}

impl Fault {
    fn text(self) -> String {
        let (Fault::Fatal(text) | Fault::Answered(text)) = self;
        text
    }
}

/// An error by the names of the standard, CKR_… and C_…; the library's own text is a paragraph.
fn short(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{code:?} (C_{function:?})"),
        other => other.to_string(),
    }
}

/// What an answer other than the one hoped for means for the module.
fn fault(what: &str, error: &Error) -> Fault {
    let text = format!("the token did not do what it was {what}: {}", short(error));
    match error {
        // What the key or the question is at fault for; another try finds the same module.
        Error::Pkcs11(
            RvError::KeyTypeInconsistent
            | RvError::KeyFunctionNotPermitted
            | RvError::MechanismInvalid
            | RvError::MechanismParamInvalid
            | RvError::TemplateInconsistent
            | RvError::TemplateIncomplete
            | RvError::AttributeValueInvalid
            | RvError::AttributeTypeInvalid
            | RvError::TokenWriteProtected
            | RvError::ActionProhibited,
            _,
        ) => Fault::Answered(text),
        _ => Fault::Fatal(text),
    }
}
