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
    /// Whether writes go past the page cache now.
    direct: bool,
    size: u64,
    path: Option<PathBuf>,
}

impl TmpFile {
    /// A new one under `tmp/`.
    pub(super) fn new(inner: &Inner) -> io::Result<Self> {
        let n = inner.drafts.fetch_add(1, Ordering::Relaxed);
        let path = inner.tmp.join(format!("{}-{n}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, direct: false, size: 0, path: Some(path) })
    }

    /// Writes at the end.
    pub(super) fn append(&mut self, inner: &Inner, bytes: &[u8]) -> io::Result<()> {
        let done = if bytes.len() >= LARGE { self.append_direct(inner, bytes)? } else { 0 };
        let (left, at) = (bytes.get(done..).unwrap_or_default(), self.size + done as u64);
        if !left.is_empty() {
            self.set_direct(false)?;
            self.file.write_all_at(left, at)?;
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Writes whole blocks, past the page cache; gives how many bytes that were.
    fn append_direct(&mut self, inner: &Inner, bytes: &[u8]) -> io::Result<usize> {
        if !inner.direct.load(Ordering::Relaxed) || !self.size.is_multiple_of(BLOCK as u64) {
            return Ok(0);
        }
        let blocks = bytes.get(..bytes.len() / BLOCK * BLOCK).unwrap_or_default();
        match self.set_direct(true).and_then(|()| self.file.write_all_at(blocks, self.size)) {
            Ok(()) => Ok(blocks.len()),
            // Not every file system can, and not all say so before they are asked to write.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                inner.direct.store(false, Ordering::Relaxed);
                Ok(0)
            }
            Err(e) => Err(e),
        }
    }

    fn set_direct(&mut self, direct: bool) -> io::Result<()> {
        if self.direct != direct {
            pass_cache(&self.file, direct)?;
            self.direct = direct;
        }
        Ok(())
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
fn pass_cache(file: &File, pass: bool) -> io::Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, pass);
    Ok(fcntl_setfl(file, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn pass_cache(_: &File, pass: bool) -> io::Result<()> {
    if pass { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
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
