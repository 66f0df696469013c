//! A file that has no name yet.
//!
//! What is written in large pieces goes past the page cache, where the file system lets it: it is flushed before anybody
//! is answered, so the cache would only cost a copy into memory that had to be found first, and push out what is read.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use super::{CHUNK, Inner, gathered::BLOCK};

/// Bytes of a piece that goes past the page cache. Smaller files are asked for soon and often (thumbnails, avatars).
const LARGE: usize = CHUNK;

/// A file that goes away with this value unless it was published.
#[derive(Debug)]
pub(super) struct TmpFile {
    file: File,
    /// The same file, past the page cache.
    direct: Option<File>,
    size: u64,
    path: Option<PathBuf>,
}

impl TmpFile {
    /// A new one under `tmp/`.
    pub(super) fn new(inner: &Inner) -> io::Result<Self> {
        let n = inner.drafts.fetch_add(1, Ordering::Relaxed);
        let path = inner.tmp.join(format!("{}-{n}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, direct: None, size: 0, path: Some(path) })
    }

    /// Writes at the end.
    pub(super) fn append(&mut self, inner: &Inner, bytes: &[u8]) -> io::Result<()> {
        let done = if bytes.len() >= LARGE { self.append_direct(inner, bytes)? } else { 0 };
        let (left, at) = (bytes.get(done..).unwrap_or_default(), self.size + done as u64);
        self.file.write_all_at(left, at)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Writes whole blocks, past the page cache; gives how many bytes that were.
    fn append_direct(&mut self, inner: &Inner, bytes: &[u8]) -> io::Result<usize> {
        if !inner.direct.load(Ordering::Relaxed) || !self.size.is_multiple_of(BLOCK as u64) {
            return Ok(0);
        }
        let blocks = bytes.get(..bytes.len() / BLOCK * BLOCK).unwrap_or_default();
        let at = self.size;
        match self.direct().and_then(|direct| direct.write_all_at(blocks, at)) {
            Ok(()) => Ok(blocks.len()),
            // Not every file system can, and not all say so when the file is opened.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                inner.direct.store(false, Ordering::Relaxed);
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }

    fn direct(&mut self) -> io::Result<&File> {
        let path = self.path.as_deref().ok_or(io::ErrorKind::NotFound)?;
        match &mut self.direct {
            Some(direct) => Ok(direct),
            none => Ok(none.insert(open_direct(path)?)),
        }
    }

    /// Makes it durable, and gives it its name.
    pub(super) fn publish(mut self, name: &Path) -> io::Result<()> {
        // The size is part of what is needed to read it back, so this flushes it too.
        self.file.sync_data()?;
        if let Some(tmp) = self.path.take()
            && let Err(e) = fs::rename(&tmp, name)
        {
            self.path = Some(tmp);
            return Err(e);
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    OpenOptions::new().write(true).custom_flags(direct).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let remove = move || {
            if let Err(e) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), error = %e, "a draft could not be removed; the next start does");
            }
        };
        // Freeing the blocks of a large file takes milliseconds.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
