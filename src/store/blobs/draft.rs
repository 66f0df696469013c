//! A blob that is being written: gathered, hashed, flushed, named.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Write},
    path::PathBuf,
    sync::atomic::Ordering,
};

use bytes::{Bytes, BytesMut};
use hearth_base::{Error, Result};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::OwnedRwLockReadGuard,
    task::{JoinHandle, spawn_blocking},
};

use super::{BlobName, Blobs, CHUNK, Inner, blocking, disk, sync_folder};

/// Pieces below this are gathered, so that a body that comes in crumbs costs memory for its bytes only.
pub(super) const CRUMB: usize = 4 * 1024;

/// Bytes that are gathered before the disk gets them: each time costs a hop to the blocking pool and back, which for
/// smaller pieces is as much as writing them. What is left at the end goes with the flush.
pub(super) const GATHER: usize = 2 * CHUNK;

/// A blob that is being written. Dropped before its end, nothing stays of it.
#[derive(Debug)]
pub struct Draft {
    blobs: Blobs,
    /// Came, but not yet handed to the disk.
    pieces: Vec<Bytes>,
    crumbs: BytesMut,
    gathered: usize,
    size: u64,
    sink: Sink,
}

/// Where the file of a draft is: with us, or with the blocking pool that writes to it.
#[derive(Debug)]
enum Sink {
    Here(Box<Writing>),
    There(JoinHandle<io::Result<Box<Writing>>>),
    Gone,
}

/// A blob that is on disk. It stays as long as this value, or a row that refers to it, lives.
#[derive(Debug)]
pub struct Kept {
    /// Its name.
    pub name: BlobName,
    /// Its size in bytes.
    pub size: u64,
    _keeping: OwnedRwLockReadGuard<()>,
}

impl Draft {
    pub(super) fn new(blobs: Blobs) -> Self {
        Self {
            blobs,
            pieces: Vec::new(),
            crumbs: BytesMut::new(),
            gathered: 0,
            size: 0,
            sink: Sink::Here(Box::new(Writing { hash: Sha256::new(), file: None })),
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes. They are written once enough have gathered, while more may come.
    ///
    /// # Errors
    /// 503 if the disk is full, a fault if it fails; the draft is of no use then.
    pub async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        self.gathered += bytes.len();
        if bytes.len() < CRUMB {
            self.crumbs.extend_from_slice(&bytes);
        } else {
            self.settle_crumbs();
            self.pieces.push(bytes);
        }
        if self.gathered > GATHER {
            let mut writing = self.take_sink().await?;
            let (inner, pieces) = (self.blobs.inner.clone(), self.take_pieces());
            self.sink = Sink::There(spawn_blocking(move || {
                writing.write(&inner, &pieces)?;
                Ok(writing)
            }));
        }
        Ok(())
    }

    /// Makes the blob durable and gives its name. Equal content that is there already is taken over.
    ///
    /// # Errors
    /// 503 if the disk is full, a fault if it fails; nothing stays then.
    pub async fn finish(mut self) -> Result<Kept> {
        let mut writing = self.take_sink().await?;
        let (inner, pieces, size) = (self.blobs.inner.clone(), self.take_pieces(), self.size);
        let keeping = inner.keeping.clone().read_owned().await;
        let name = blocking(move || {
            writing.write(&inner, &pieces)?;
            writing.publish(&inner, size)
        })
        .await
        .map_err(disk)?;
        Ok(Kept { name, size, _keeping: keeping })
    }

    fn settle_crumbs(&mut self) {
        if !self.crumbs.is_empty() {
            self.pieces.push(self.crumbs.split().freeze());
        }
    }

    fn take_pieces(&mut self) -> Vec<Bytes> {
        self.settle_crumbs();
        self.gathered = 0;
        std::mem::take(&mut self.pieces)
    }

    async fn take_sink(&mut self) -> Result<Box<Writing>> {
        match std::mem::replace(&mut self.sink, Sink::Gone) {
            Sink::Here(writing) => Ok(writing),
            Sink::There(writing) => writing.await.map_err(io::Error::other).and_then(|w| w).map_err(disk),
            Sink::Gone => Err(Error::broken("a draft was used after it failed")),
        }
    }
}

#[derive(Debug)]
struct Writing {
    hash: Sha256,
    /// Made with the first bytes: what fits into one chunk is written, flushed and renamed in one go.
    file: Option<TmpFile>,
}

impl Writing {
    fn write(&mut self, inner: &Inner, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.hash.update(piece);
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(inner.tmp_file()?),
        };
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
        let mut slices = &mut slices[..];
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match file.file.write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut slices, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Flushes the file and gives it its name.
    fn publish(self, inner: &Inner, size: u64) -> io::Result<BlobName> {
        let Self { hash, file } = self;
        let name = BlobName(hash.finalize().into());
        let path = inner.path(name);
        let there = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == size);
        if let Some(mut file) = file
            && !there
        {
            // The size is part of what is needed to read it back, so this flushes it too.
            file.file.sync_data()?;
            if let Some(tmp) = file.path.take()
                && let Err(e) = fs::rename(&tmp, &path)
            {
                file.path = Some(tmp);
                return Err(e);
            }
        }
        // Also when it was there: whoever renamed it may not have come this far yet.
        if let Some(folder) = path.parent() {
            sync_folder(folder)?;
        }
        Ok(name)
    }
}

impl Inner {
    /// A new file under `tmp/`.
    fn tmp_file(&self) -> io::Result<TmpFile> {
        let n = self.drafts.fetch_add(1, Ordering::Relaxed);
        let path = self.tmp.join(format!("{}-{n}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(TmpFile { file: options.open(&path)?, path: Some(path) })
    }
}

/// A file that goes away with this value unless it was renamed.
#[derive(Debug)]
struct TmpFile {
    file: File,
    path: Option<PathBuf>,
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
