//! Password hashes: argon2id for new ones; bcrypt with pepper, as Synapse made them, is verified.
//!
//! Hashing costs tens of milliseconds and tens of megabytes by design. It runs on the blocking pool, on half of the
//! cores; a bounded number of callers waits, and those beyond are told to come again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version, password_hash::SaltString,
};
use hearth_base::{Doing, Error, Result};
use memory::{Hasher, Memory};
use tokio::sync::Semaphore;
use unicode_normalization::UnicodeNormalization as _;

mod memory;

/// How passwords are hashed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Appended to the password before bcrypt (Synapse's `password_config.pepper`).
    pub pepper: String,
    /// Memory of argon2id, KiB.
    pub memory_kib: u32,
    /// Passes of argon2id.
    pub passes: u32,
    /// Callers who may wait for a hash at a time.
    pub waiting: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { pepper: String::new(), memory_kib: 19 * 1024, passes: 2, waiting: 64 }
    }
}

/// What a new password must be like (`password_config.policy`). Lengths count characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether there is one.
    pub enabled: bool,
    /// Characters at least.
    pub minimum_length: usize,
    /// A digit is needed.
    pub require_digit: bool,
    /// Something that is neither letter nor digit is needed.
    pub require_symbol: bool,
    /// A lower-case letter is needed.
    pub require_lowercase: bool,
    /// An upper-case letter is needed.
    pub require_uppercase: bool,
}

/// Bytes of a password at most: nobody types more, and hashing costs.
const LONGEST: usize = 512;

impl Policy {
    /// Checks a new password.
    ///
    /// # Errors
    /// 400 `M_WEAK_PASSWORD` with the rule it breaks, 400 `M_INVALID_PARAM` for none at all or far too much.
    pub fn check(&self, password: &str) -> Result<()> {
        if password.is_empty() || password.len() > LONGEST {
            return Err(Error::invalid_param("A password has 1 to 512 bytes"));
        }
        if !self.enabled {
            return Ok(());
        }
        let any = |test: fn(char) -> bool| password.chars().any(test);
        let broken = if password.chars().count() < self.minimum_length {
            "The password is too short"
        } else if self.require_digit && !any(|c| c.is_numeric()) {
            "The password needs a digit"
        } else if self.require_symbol && !any(|c| !c.is_alphanumeric()) {
            "The password needs a character that is neither letter nor digit"
        } else if self.require_lowercase && !any(char::is_lowercase) {
            "The password needs a lower-case letter"
        } else if self.require_uppercase && !any(char::is_uppercase) {
            "The password needs an upper-case letter"
        } else {
            return Ok(());
        };
        Err(Error::told(http::StatusCode::BAD_REQUEST, "M_WEAK_PASSWORD", broken))
    }
}

/// Hashes and verifies.
pub struct Passwords {
    settings: Settings,
    /// How many hash at a time.
    workers: Arc<Semaphore>,
    /// How many wait or hash.
    inside: AtomicUsize,
    memory: Arc<Memory>,
}

/// One caller's place in the queue, given back when they leave.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Passwords {
    /// A hasher on half of the cores.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = (cores / 2).max(1);
        let memory = Arc::new(Memory::new(workers));
        Self { settings, workers: Arc::new(Semaphore::new(workers)), inside: AtomicUsize::new(0), memory }
    }

    /// The hash of a password, a PHC string.
    ///
    /// # Errors
    /// 429 if too many wait.
    pub async fn hash(&self, password: String) -> Result<String> {
        self.blocking(move |hasher| hash(hasher, &password)).await
    }

    /// Whether a hash is that of the password. Without a hash the answer is no, after the same work.
    ///
    /// # Errors
    /// 429 if too many wait.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        let pepper = self.settings.pepper.clone();
        self.blocking(move |hasher| {
            let Some(hash) = hash else {
                return self::hash(hasher, &password).map(|_| false);
            };
            Ok(matches(hasher, &password, &pepper, &hash))
        })
        .await
    }

    /// Gives back memory that has not been hashed in for a while.
    pub fn release_memory(&self) {
        self.memory.release(Instant::now());
    }

    fn argon(&self) -> Result<Argon2<'static>> {
        let params = Params::new(self.settings.memory_kib, self.settings.passes, 1, None)
            .map_err(|e| Error::broken(format!("parameters of argon2id: {e}")))?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Hasher) -> Result<T> + Send + 'static) -> Result<T> {
        let argon = self.argon()?;
        self.inside.fetch_add(1, Ordering::AcqRel);
        let _place = Place(&self.inside);
        if self.inside.load(Ordering::Acquire) > self.settings.waiting {
            return Err(Error::limit_exceeded(Duration::from_secs(2)));
        }
        let permit = self.workers.clone().acquire_owned().await.doing("waiting to hash a password")?;
        let memory = self.memory.clone();
        // The permit goes with the work: a caller who leaves does not free a core that is still busy.
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let hasher = memory.hasher(argon);
            let done = work(&hasher);
            memory.give_back(hasher);
            done
        })
        .await
        .doing("hashing a password")?
    }
}

/// A password in the form that is hashed: keyboards and systems differ in how they write one and the same letter. As in
/// Synapse, whose hashes are to be verified.
#[must_use]
pub fn normal(password: &str) -> String {
    password.nfkc().collect()
}

fn hash(hasher: &Hasher, password: &str) -> Result<String> {
    let failed = |e| Error::broken(format!("hashing a password: {e}"));
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(failed)?;
    hasher.hash_password(normal(password).as_bytes(), &salt).map(|h| h.to_string()).map_err(failed)
}

fn matches(hasher: &Hasher, password: &str, pepper: &str, hash: &str) -> bool {
    let password = normal(password);
    if hash.starts_with("$2") {
        // bcrypt reads 72 bytes; Synapse cut there as well.
        let peppered = format!("{password}{pepper}");
        let bytes = peppered.as_bytes();
        return bcrypt::verify(bytes.get(..72).unwrap_or(bytes), hash).unwrap_or(false);
    }
    PasswordHash::new(hash).is_ok_and(|parsed| hasher.verify_password(password.as_bytes(), &parsed).is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cheap(pepper: &str) -> Passwords {
        Passwords::new(Settings { memory_kib: 8, passes: 1, pepper: pepper.to_owned(), ..Settings::default() })
    }

    #[tokio::test]
    async fn a_hash_matches_its_password_and_no_other() {
        let p = cheap("");
        let hash = p.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(p.verify("correct horse".to_owned(), Some(hash.clone())).await.unwrap());
        assert!(!p.verify("correct horsf".to_owned(), Some(hash)).await.unwrap());
        assert!(!p.verify("correct horse".to_owned(), None).await.unwrap());
        assert!(!p.verify("x".to_owned(), Some("rubbish".to_owned())).await.unwrap());
    }

    #[tokio::test]
    async fn bcrypt_with_pepper_is_verified_up_to_72_bytes() {
        let p = cheap("salz");
        let hash = bcrypt::hash("geheimsalz", 4).unwrap();
        assert!(p.verify("geheim".to_owned(), Some(hash.clone())).await.unwrap());
        assert!(!p.verify("geheimsalz".to_owned(), Some(hash)).await.unwrap());
        let long = "x".repeat(72);
        let hash = bcrypt::hash(&long, 4).unwrap();
        assert!(p.verify(long, Some(hash)).await.unwrap());
    }

    #[tokio::test]
    async fn a_letter_is_the_same_however_it_is_written() {
        let p = cheap("");
        let (whole, composed) = ("Pa\u{df}w\u{f6}rter \u{e9}", "Pa\u{df}wo\u{308}rter e\u{301}");
        let hash = p.hash(composed.to_owned()).await.unwrap();
        assert!(p.verify(whole.to_owned(), Some(hash)).await.unwrap());
        let theirs = bcrypt::hash(whole, 4).unwrap();
        assert!(p.verify(composed.to_owned(), Some(theirs)).await.unwrap());
    }

    #[tokio::test]
    async fn too_many_at_once_are_told_to_come_again() {
        let p = Arc::new(Passwords::new(Settings { memory_kib: 8, passes: 1, waiting: 2, ..Settings::default() }));
        let all = futures_util::future::join_all((0..8).map(|_| p.verify("a".to_owned(), None))).await;
        assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 2);
        assert!(all.iter().filter_map(|r| r.as_ref().err()).all(|e| e.errcode() == "M_LIMIT_EXCEEDED"));
        assert!(!p.verify("a".to_owned(), None).await.unwrap());
    }
}
