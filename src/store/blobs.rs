//! Media bytes on disk, named by their hash.
//!
//! A blob is written under `tmp/` and hashed on the way, flushed, renamed to `blobs/ab/abcd…`, and its folder flushed:
//! when [`Draft::finish`] returns it survives power loss, and a name never stands for half a file. Equal content is kept
//! once. Bytes come in pieces of four times [`CHUNK`] and go in such of one, on the blocking pool, so neither a large file nor
//! a slow disk fills memory or holds up a worker thread. What a blob is and who refers to it is said by `media.rs`.
//!
//! Another kind of storage would replace three things: the rename in `finish`, [`Blobs::read`] and [`Blobs::remove_unless`];
//! the draft on local disk stays, since a name is known only when all bytes are.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use hearth_base::{Error, Result};
use tokio::{sync::RwLock, task::spawn_blocking};

mod draft;
mod gathered;
mod reader;
#[cfg(test)]
mod tests;
mod tmp;

pub use draft::{Draft, Kept};
pub use reader::Reader;
use reader::read_chunk;

/// Bytes read at once. A download holds two of these at most, an upload eight.
pub const CHUNK: usize = 256 * 1024;

/// The name of a blob: the BLAKE3 hash of its bytes; of those that were kept before 2026-11-28, their SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobName([u8; 32]);

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobName {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let parse = || {
            let (pairs, rest) = s.as_bytes().as_chunks::<2>();
            let mut name = [0; 32];
            if !rest.is_empty() || pairs.len() != name.len() {
                return None;
            }
            for (byte, [high, low]) in name.iter_mut().zip(pairs) {
                let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
                *byte = digit(*high)? << 4 | digit(*low)?;
            }
            Some(Self(name))
        };
        parse().ok_or_else(|| Error::broken("the name of a blob is no hash"))
    }
}

/// The folder of blobs. Clones are the same folder.
#[derive(Clone, Debug)]
pub struct Blobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    tmp: PathBuf,
    drafts: AtomicU64,
    /// Whether the file system is thought to let writes go past the page cache.
    direct: AtomicBool,
    /// Held for reading from the moment a blob may be taken over as it is until its row is committed, and for
    /// writing while an unreferred blob goes: so none goes that somebody is about to refer to.
    keeping: Arc<RwLock<()>>,
    /// Held as long as the folder is ours alone: another process, with another database, would take away what is not in it.
    lock: OnceLock<File>,
}

impl Blobs {
    /// Opens the folder, makes what is missing, and removes drafts that a crash left behind.
    ///
    /// # Errors
    /// One sentence for the operator if the folder cannot be made or written, or another process has it.
    pub async fn open(root: &Path) -> Result<Self> {
        let (blobs, tmp) = (root.join("blobs"), root.join("tmp"));
        let at = root.to_owned();
        let (drafts, direct) = (AtomicU64::new(0), AtomicBool::new(true));
        let inner = Inner { blobs, tmp, drafts, direct, keeping: Arc::default(), lock: OnceLock::new() };
        let inner = blocking(move || inner.prepare(&at).map(|()| inner)).await.map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => Error::broken(format!(
                "the media folder {} is in use by another hearth; stop that one first, or name another by media_store_path",
                root.display()
            )),
            _ => Error::unavailable(
                format!("cannot use the media folder {}: check that it belongs to this user", root.display()),
                e,
            ),
        })?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Lets another process have the folder. For the end, when nobody writes any more.
    pub(crate) fn release(&self) {
        if let Some(lock) = self.inner.lock.get() {
            let _ = lock.unlock();
        }
    }

    /// Begins a blob.
    #[must_use]
    pub fn draft(&self) -> Draft {
        Draft::new(self.clone())
    }

    /// Keeps bytes that are in memory.
    ///
    /// # Errors
    /// See [`Draft::finish`].
    pub async fn keep(&self, bytes: Bytes) -> Result<Kept> {
        let mut draft = self.draft();
        draft.expect(bytes.len() as u64);
        draft.push(bytes).await?;
        draft.finish().await
    }

    /// Reads a blob or a part of it, whose end may lie beyond the blob's. `None` if there is no such blob.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn read(&self, name: BlobName, range: Option<Range<u64>>) -> Result<Option<Reader>> {
        let path = self.inner.path(name);
        let opened = blocking(move || {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            let range = range.unwrap_or(0..size);
            let (start, end) = (range.start.min(size), range.end.min(size));
            let left = end.saturating_sub(start);
            let first = read_chunk(&file, start, left)?;
            Ok((file, start, left, first))
        });
        let (file, start, left, first) = match opened.await {
            Ok(opened) => opened,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(disk(e)),
        };
        let behind = left - first.len() as u64;
        let at = start + first.len() as u64;
        Ok(Some(Reader { left, ready: Some(first), behind, at, file: Some(file), reading: None, cold: false }))
    }

    /// Opens a blob as a file, for work on the blocking pool.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub fn open_blocking(&self, name: BlobName) -> io::Result<File> {
        File::open(self.inner.path(name))
    }

    /// The blobs of one folder (the first byte of their names) that were there before that time, ms since 1970.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn older(&self, folder: u8, before_ms: i64) -> Result<Vec<BlobName>> {
        let path = self.inner.blobs.join(format!("{folder:02x}"));
        let before = UNIX_EPOCH + Duration::from_millis(u64::try_from(before_ms).unwrap_or(0));
        let found = blocking(move || {
            let mut found = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                // What is no blob is not ours to remove, and what is gone meanwhile need not be.
                let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                let Ok(seen) = entry.metadata() else { continue };
                if seen.is_file() && seen.modified()? < before {
                    found.push(name);
                }
            }
            Ok(found)
        });
        found.await.map_err(disk)
    }

    /// Removes a blob unless it is referred to, which is asked while nobody can begin to. Gives whether it is gone.
    ///
    /// # Errors
    /// The question's own; if the disk fails.
    pub async fn remove_unless<Fut>(&self, name: BlobName, referred: impl FnOnce() -> Fut) -> Result<bool>
    where
        Fut: Future<Output = Result<bool>>,
    {
        let _nobody_keeps = self.inner.keeping.write().await;
        if referred().await? {
            return Ok(false);
        }
        let path = self.inner.path(name);
        match blocking(move || fs::remove_file(path)).await {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(disk(e)),
        }
    }
}

impl Inner {
    fn path(&self, name: BlobName) -> PathBuf {
        let name = name.to_string();
        self.blobs.join(name.get(..2).unwrap_or_default()).join(name)
    }

    /// Makes the folders, all of them now so that no upload has to, and clears `tmp`.
    fn prepare(&self, root: &Path) -> io::Result<()> {
        let mut made = false;
        for folder in [root, &self.blobs, &self.tmp] {
            made |= !folder.is_dir();
            fs::create_dir_all(folder)?;
        }
        // The folder itself is locked, so that there is no file more in it.
        let lock = File::open(&self.blobs)?;
        match lock.try_lock() {
            Ok(()) => drop(self.lock.set(lock)),
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            // Some network file systems have no locks; that is no reason not to keep media there.
            Err(TryLockError::Error(_)) => {}
        }
        for shard in 0..=255u8 {
            match fs::create_dir(self.blobs.join(format!("{shard:02x}"))) {
                Ok(()) => made = true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        if made {
            sync_folder(&self.blobs)?;
            sync_folder(root)?;
        }
        for left in fs::read_dir(&self.tmp)? {
            fs::remove_file(left?.path())?;
        }
        Ok(())
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file, and renames are journalled by themselves.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// What an error of the disk means for us: a full one passes.
#[track_caller]
fn disk(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::unavailable("the disk of the media folder is full", e)
        }
        _ => Error::fault("media folder", e),
    }
}
