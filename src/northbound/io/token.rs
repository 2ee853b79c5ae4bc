//! Keys in a PKCS #11 token.
//!
//! One thread a token calls the module, which may hang, wait for a hardware that is gone, or take a
//! second. Those who want something of it wait for [`WITHIN`] and go on; while it hangs, they are
//! told so at once. So a wedged module costs one thread and the uplink, and nothing else: readings
//! are stored. No caller may be on the path's thread.
//!
//! | what happens | what is done |
//! |---|---|
//! | the token is not there, or was pulled | the module is finalised, and loaded again at the next question, at most every 30 s, or once the PIN's file was written |
//! | the module fails otherwise | the same |
//! | the module does not answer | nothing more is asked of it; `systemctl restart tombolo` starts it anew |
//! | the PIN is wrong | it is marked and never tried again ([`pin_mark`](crate::northbound::pin_mark)) |
//! | one try is left before the token locks, or it is locked | no PIN is tried |

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};

use crate::northbound::settings::TokenSettings;
use crate::northbound::token_key::{ID_LENGTH, TokenKey, signature};

/// How long an answer of the module is waited for.
pub const WITHIN: Duration = Duration::from_secs(10);
/// How long the first answer is waited for: the module is loaded, and the PIN judged.
const FIRST_WITHIN: Duration = Duration::from_secs(20);

/// What is asked of the token.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "pkcs11"), allow(dead_code, reason = "nothing answers"))]
enum Question {
    Sign { id: [u8; ID_LENGTH], digest: [u8; 32] },
    Generate { label: String, id: [u8; ID_LENGTH] },
    Keep { label: String, ids: Vec<[u8; ID_LENGTH]> },
    Look,
}

/// What the token says.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "pkcs11"), allow(dead_code, reason = "nothing answers"))]
enum Answer {
    Signature(Vec<u8>),
    Key(TokenKey),
    Removed(usize),
    Description(String),
}

struct Job {
    question: Question,
    /// Nobody waits any more after that.
    until: Instant,
    reply: mpsc::SyncSender<Result<Answer, String>>,
}

#[derive(Default)]
struct Standing {
    /// Since when the module has been busy with one question.
    busy_since: Option<Instant>,
    /// It has answered before.
    answered: bool,
}

/// A token, and the thread that talks to it.
pub struct Token {
    settings: TokenSettings,
    jobs: mpsc::Sender<Job>,
    standing: Arc<Mutex<Standing>>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.settings.label)
    }
}

/// A module is loaded once a process (PKCS #11 3.0 §5.4).
static TOKENS: LazyLock<Mutex<HashMap<TokenSettings, Arc<Token>>>> = LazyLock::new(Mutex::default);

impl Token {
    /// The token of these settings; the module is loaded with the first question.
    ///
    /// # Errors
    /// The program was built without it, or no thread can be started.
    pub fn of(settings: &TokenSettings) -> Result<Arc<Token>, String> {
        if !cfg!(feature = "pkcs11") {
            return Err("this program was built without PKCS #11 (the cargo feature pkcs11)".to_owned());
        }
        let mut tokens = TOKENS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = tokens.get(settings) {
            return Ok(Arc::clone(token));
        }
        let (jobs, questions) = mpsc::channel();
        let standing = Arc::new(Mutex::new(Standing::default()));
        let token = Arc::new(Token { settings: settings.clone(), jobs, standing: standing.clone() });
        let module = Module::new(settings.clone());
        std::thread::Builder::new()
            .name("token".to_owned())
            .spawn(move || serve(module, &questions, &standing))
            .map_err(|error| format!("the thread for the token cannot be started: {error}"))?;
        tokens.insert(settings.clone(), Arc::clone(&token));
        Ok(token)
    }

    fn ask(&self, question: Question) -> Result<Answer, String> {
        let now = Instant::now();
        let within = {
            let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(busy) = standing.busy_since.map(|since| now - since).filter(|busy| *busy >= WITHIN) {
                return Err(self.wedged(busy));
            }
            if standing.answered { WITHIN } else { FIRST_WITHIN }
        };
        let (reply, answer) = mpsc::sync_channel(1);
        let gone = || "the thread of the token ended by a fault; `systemctl restart tombolo`".to_owned();
        self.jobs.send(Job { question, until: now + within, reply }).map_err(|_| gone())?;
        match answer.recv_timeout(within) {
            Ok(answer) => answer,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(self.wedged(within)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    fn wedged(&self, since: Duration) -> String {
        format!(
            "the PKCS #11 module {} has not answered for {} s; if it stays so, `systemctl restart tombolo` loads it anew",
            self.settings.module.display(),
            since.as_secs()
        )
    }

    /// Makes a key, P-256, that cannot leave the token. `label`: of its objects.
    ///
    /// # Errors
    /// One sentence.
    pub fn generate(&self, label: &str, id: [u8; ID_LENGTH]) -> Result<TokenKey, String> {
        match self.ask(Question::Generate { label: label.to_owned(), id })? {
            Answer::Key(key) => Ok(key),
            other => Err(format!("the token answers something else: {other:?}")),
        }
    }

    /// Removes all keys with this label but those with these ids; how many.
    ///
    /// # Errors
    /// One sentence.
    pub fn keep(&self, label: &str, ids: Vec<[u8; ID_LENGTH]>) -> Result<usize, String> {
        match self.ask(Question::Keep { label: label.to_owned(), ids })? {
            Answer::Removed(count) => Ok(count),
            other => Err(format!("the token answers something else: {other:?}")),
        }
    }

    /// Logs in, if that is not done, and describes the token in half a sentence.
    ///
    /// # Errors
    /// One sentence.
    pub fn look(&self) -> Result<String, String> {
        match self.ask(Question::Look)? {
            Answer::Description(text) => Ok(text),
            other => Err(format!("the token answers something else: {other:?}")),
        }
    }
}

fn serve(mut module: Module, questions: &mpsc::Receiver<Job>, standing: &Mutex<Standing>) {
    while let Ok(Job { question, until, reply }) = questions.recv() {
        let now = Instant::now();
        if now >= until {
            continue; // those who asked were told
        }
        standing.lock().unwrap_or_else(PoisonError::into_inner).busy_since = Some(now);
        let answer = module.answer(&question);
        *standing.lock().unwrap_or_else(PoisonError::into_inner) =
            Standing { busy_since: None, answered: true };
        // Nobody may wait any more.
        let _ = reply.send(answer);
    }
}

/// The key that a reference means, to sign with. It signs on the calling thread: never the path's.
///
/// # Errors
/// As [`Token::of`].
pub fn signing_key(settings: &TokenSettings, key: TokenKey) -> Result<Arc<dyn SigningKey>, String> {
    Ok(Arc::new(InToken { token: Token::of(settings)?, key }))
}

#[derive(Clone, Debug)]
struct InToken {
    token: Arc<Token>,
    key: TokenKey,
}

impl SigningKey for InToken {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme()).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(&self.key.info[..]))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for InToken {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
        match self.token.ask(Question::Sign { id: self.key.id, digest: sum }) {
            Ok(Answer::Signature(raw)) => {
                signature(&raw).ok_or_else(|| Error::General("the token's signature is none".to_owned()))
            }
            Ok(other) => Err(Error::General(format!("the token answers something else: {other:?}"))),
            Err(text) => Err(Error::General(text)),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[cfg(feature = "pkcs11")]
use self::module::Module;
#[cfg(not(feature = "pkcs11"))]
use self::without::Module;

#[cfg(feature = "pkcs11")]
#[path = "token_module.rs"]
mod module;

/// Built without PKCS #11: [`Token::of`] has said so.
#[cfg(not(feature = "pkcs11"))]
mod without {
    use super::{Answer, Question};
    use crate::northbound::settings::TokenSettings;

    pub struct Module;

    impl Module {
        pub fn new(_: TokenSettings) -> Module {
            Module
        }

        pub fn answer(&mut self, _: &Question) -> Result<Answer, String> {
            Err("this program was built without PKCS #11".to_owned())
        }
    }
}
