//! The memory that argon2id fills, kept for a while: to get tens of megabytes from the system page by page and to clear
//! them takes part of the time that a hash takes. It is given back within a minute of the last hash.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, PasswordHasher, Version,
    password_hash::{self, Decimal, Ident, Output, ParamsString, Salt},
};
use parking_lot::Mutex;

/// How long it is kept.
const KEEP: Duration = Duration::from_secs(30);

/// What is kept, for as many as hash at a time.
#[derive(Debug)]
pub(super) struct Memory {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    free: Vec<Vec<Block>>,
    /// When some was last given back.
    used: Option<Instant>,
}

impl Memory {
    /// Keeps pieces for `most` at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// A hasher with memory of its own.
    pub(super) fn hasher(&self, argon: Argon2<'static>) -> Hasher {
        let memory = self.kept.lock().free.pop().unwrap_or_default();
        Hasher { argon, memory: RefCell::new(memory) }
    }

    /// Takes back a hasher's memory, unless a hash of another server wanted more than ours do.
    pub(super) fn give_back(&self, hasher: Hasher) {
        let Hasher { argon, memory } = hasher;
        let memory = memory.into_inner();
        let mut kept = self.kept.lock();
        if kept.free.len() < self.most && memory.len() == argon.params().block_count() {
            kept.free.push(memory);
            kept.used = Some(Instant::now());
        }
    }

    /// Gives back to the system what has not been used for a while.
    pub(super) fn release(&self, now: Instant) {
        let mut kept = self.kept.lock();
        if kept.used.is_some_and(|used| now.saturating_duration_since(used) >= KEEP) {
            *kept = Kept::default();
        }
    }
}

/// Argon2id over memory that was used before.
pub(super) struct Hasher {
    argon: Argon2<'static>,
    memory: RefCell<Vec<Block>>,
}

impl PasswordHasher for Hasher {
    type Params = Params;

    fn hash_password<'a>(&self, password: &[u8], salt: impl Into<Salt<'a>>) -> password_hash::Result<PasswordHash<'a>> {
        self.hash_password_customized(password, None, None, self.argon.params().clone(), salt)
    }

    fn hash_password_customized<'a>(
        &self,
        password: &[u8],
        algorithm: Option<Ident<'a>>,
        version: Option<Decimal>,
        params: Params,
        salt: impl Into<Salt<'a>>,
    ) -> password_hash::Result<PasswordHash<'a>> {
        let algorithm = algorithm.map(Algorithm::try_from).transpose()?.unwrap_or(Algorithm::Argon2id);
        let version = version.map(Version::try_from).transpose()?.unwrap_or(Version::V0x13);
        let argon = Argon2::new(algorithm, version, params);
        let (params, salt) = (argon.params(), salt.into());
        let mut bytes = [0; Salt::MAX_LENGTH];
        let salt_bytes = salt.decode_b64(&mut bytes)?;
        let mut memory = self.memory.borrow_mut();
        memory.resize(params.block_count(), Block::default());
        let output = Output::init_with(params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN), |out| {
            Ok(argon.hash_password_into_with_memory(password, salt_bytes, out, &mut *memory)?)
        })?;
        Ok(PasswordHash {
            algorithm: algorithm.ident(),
            version: Some(version.into()),
            params: ParamsString::try_from(params)?,
            salt: Some(salt),
            hash: Some(output),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use argon2::{PasswordVerifier as _, password_hash::SaltString};

    use super::*;

    fn argon(memory_kib: u32) -> Argon2<'static> {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(memory_kib, 2, 1, None).unwrap())
    }

    #[test]
    fn what_was_in_memory_before_makes_no_difference() {
        let memory = Memory::new(1);
        let salt = SaltString::encode_b64(b"sixteen bytes ..").unwrap();
        let fresh = argon(64).hash_password(b"secret", &salt).unwrap().to_string();
        for other in ["one", "two"] {
            let hasher = memory.hasher(argon(64));
            hasher.hash_password(other.as_bytes(), &salt).unwrap();
            assert_eq!(hasher.hash_password(b"secret", &salt).unwrap().to_string(), fresh);
            // A hash that wants more, and one that wants less.
            for kib in [128, 32] {
                let hash = argon(kib).hash_password(b"secret", &salt).unwrap();
                assert!(hasher.verify_password(b"secret", &hash).is_ok());
                assert!(hasher.verify_password(b"sekret", &hash).is_err());
            }
            assert_eq!(hasher.hash_password(b"secret", &salt).unwrap().to_string(), fresh);
            memory.give_back(hasher);
        }
    }

    #[test]
    fn as_much_is_kept_as_may_be_and_not_for_ever() {
        let memory = Memory::new(1);
        let salt = SaltString::encode_b64(b"sixteen bytes ..").unwrap();
        let hashers: Vec<Hasher> = (0..3).map(|_| memory.hasher(argon(64))).collect();
        for hasher in hashers {
            hasher.hash_password(b"secret", &salt).unwrap();
            memory.give_back(hasher);
        }
        assert_eq!(memory.kept.lock().free.len(), 1);
        let large = memory.hasher(argon(64));
        large.verify_password(b"secret", &argon(128).hash_password(b"secret", &salt).unwrap()).unwrap();
        memory.give_back(large);
        assert_eq!(memory.kept.lock().free.len(), 0, "what a hash of another server wanted");
        let hasher = memory.hasher(argon(64));
        hasher.hash_password(b"secret", &salt).unwrap();
        memory.give_back(hasher);
        memory.release(Instant::now());
        assert_eq!(memory.kept.lock().free.len(), 1);
        memory.release(Instant::now() + KEEP);
        assert!(memory.kept.lock().free.is_empty());
    }
}
