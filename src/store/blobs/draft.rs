//! A blob that is being written: gathered, hashed, flushed, named.

use std::{fs, io};

use bytes::Bytes;
use hearth_base::{Error, Result};
use tokio::{
    sync::OwnedRwLockReadGuard,
    task::{JoinHandle, spawn_blocking},
};

use super::{BlobName, Blobs, CHUNK, Inner, blocking, disk, gathered::Gathered, sync_folder, tmp::TmpFile};

/// Bytes that are gathered before the disk gets them: each time costs a hop to the blocking pool and back, which for
/// smaller pieces is as much as writing them. What is left at the end goes with the flush, so that most uploads are one
/// hop.
pub(super) const GATHER: usize = 4 * CHUNK;
/// Bytes that are hashed at once, or a multiple: sixteen pieces of BLAKE3's tree, as many as a processor does side by side.
const HASHED: usize = 16 * 1024;

/// A blob that is being written. Dropped before its end, nothing stays of it.
#[derive(Debug)]
pub struct Draft {
    blobs: Blobs,
    /// Of what came, but for the last [`HASHED`] at most: it is hashed while the processor still has it at hand.
    hash: Box<blake3::Hasher>,
    /// How many of those gathered it has seen.
    hashed: usize,
    /// Came, but not yet handed to the disk.
    gathered: Gathered,
    size: u64,
    sink: Sink,
}

/// Where the file of a draft is: with us, or with the blocking pool that writes to it.
#[derive(Debug)]
enum Sink {
    Here(Writing),
    There(JoinHandle<io::Result<Writing>>),
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
        let hash = Box::default();
        Self { blobs, hash, hashed: 0, gathered: Gathered::default(), size: 0, sink: Sink::Here(Writing::default()) }
    }

    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes room for so many bytes, as far as they are gathered at once: otherwise what came is moved whenever room is
    /// found for more. To be said before any come, and kept or not; room that nobody writes to is none of the machine's.
    pub fn expect(&mut self, bytes: u64) {
        if self.gathered.len() == 0 {
            let bytes = usize::try_from(bytes).unwrap_or(GATHER);
            self.gathered = Gathered::more(bytes.min(GATHER));
        }
    }

    /// Adds bytes. They are written once enough have gathered, while more may come.
    ///
    /// # Errors
    /// 503 if the disk is full, a fault if it fails; the draft is of no use then.
    pub async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        let mut left = &bytes[..];
        loop {
            left = self.gathered.take(left, GATHER);
            self.hash_to(self.gathered.len() / HASHED * HASHED);
            if left.is_empty() {
                return Ok(());
            }
            let mut writing = self.take_sink().await?;
            let (inner, full) =
                (self.blobs.inner.clone(), std::mem::replace(&mut self.gathered, Gathered::more(GATHER)));
            self.hashed = 0;
            self.sink = Sink::There(spawn_blocking(move || {
                writing.write(&inner, full.bytes())?;
                Ok(writing)
            }));
        }
    }

    /// Hashes what has gathered up to there.
    fn hash_to(&mut self, end: usize) {
        if let Some(more) = self.gathered.bytes().get(self.hashed..end) {
            self.hash.update(more);
            self.hashed = end;
        }
    }

    /// Makes the blob durable and gives its name. Equal content that is there already is taken over.
    ///
    /// # Errors
    /// 503 if the disk is full, a fault if it fails; nothing stays then.
    pub async fn finish(mut self) -> Result<Kept> {
        let mut writing = self.take_sink().await?;
        self.hash_to(self.gathered.len());
        let (inner, rest, size) = (self.blobs.inner.clone(), self.gathered, self.size);
        let name = BlobName(*self.hash.finalize().as_bytes());
        let keeping = inner.keeping.clone().read_owned().await;
        blocking(move || {
            writing.write(&inner, rest.bytes())?;
            writing.publish(&inner, name, size)
        })
        .await
        .map_err(disk)?;
        Ok(Kept { name, size, _keeping: keeping })
    }

    async fn take_sink(&mut self) -> Result<Writing> {
        match std::mem::replace(&mut self.sink, Sink::Gone) {
            Sink::Here(writing) => Ok(writing),
            Sink::There(writing) => writing.await.map_err(io::Error::other).and_then(|w| w).map_err(disk),
            Sink::Gone => Err(Error::broken("a draft was used after it failed")),
        }
    }
}

#[derive(Debug, Default)]
struct Writing {
    /// Made with the first bytes: what fits into one piece is written, flushed and renamed in one go.
    file: Option<TmpFile>,
}

impl Writing {
    fn write(&mut self, inner: &Inner, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(TmpFile::new(inner)?),
        };
        file.append(inner, bytes)
    }

    /// Flushes the file and gives it its name.
    fn publish(self, inner: &Inner, name: BlobName, size: u64) -> io::Result<()> {
        let path = inner.path(name);
        let there = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == size);
        if let Some(file) = self.file
            && !there
        {
            file.publish(&path)?;
        }
        // Also when it was there: whoever renamed it may not have come this far yet.
        if let Some(folder) = path.parent() {
            sync_folder(folder)?;
        }
        Ok(())
    }
}
