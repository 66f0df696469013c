//! Media bytes on disk, named by their SHA-256.
//!
//! A blob is written under `tmp/` and hashed on the way, flushed, renamed to `blobs/ab/abcd…`, and its folder flushed:
//! when [`Draft::finish`] returns it survives power loss, and a name never stands for half a file. Equal content is kept
//! once. Bytes come and go in chunks of [`CHUNK`] on the blocking pool, so neither a large file nor a slow disk fills
//! memory or holds up a worker thread. What a blob is and who refers to it is said by `media.rs`.
//!
//! Another kind of storage would replace three things: the rename in `finish`, [`Blobs::read`] and [`Blobs::remove_unless`];
//! the draft on local disk stays, since a name is known only when all bytes are.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, ready};
use hearth_base::{Error, Result};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock},
    task::{JoinHandle, spawn_blocking},
};

/// Bytes read or written at once. An upload or download holds two of these at most.
pub const CHUNK: usize = 256 * 1024;

/// Pieces below this are gathered, so that a body that comes in crumbs costs memory for its bytes only.
const CRUMB: usize = 4 * 1024;

/// The name of a blob: the SHA-256 of its bytes.
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
        parse().ok_or_else(|| Error::broken("the name of a blob is not a SHA-256"))
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
    /// Held for reading from the moment a blob may be taken over as it is until its row is committed, and for
    /// writing while an unreferred blob goes: so none goes that somebody is about to refer to.
    keeping: Arc<RwLock<()>>,
}

impl Blobs {
    /// Opens the folder, makes what is missing, and removes drafts that a crash left behind.
    ///
    /// # Errors
    /// One sentence for the operator if the folder cannot be made or written.
    pub async fn open(root: &Path) -> Result<Self> {
        let (blobs, tmp) = (root.join("blobs"), root.join("tmp"));
        let at = root.to_owned();
        let inner = Inner { blobs, tmp, drafts: AtomicU64::new(0), keeping: Arc::new(RwLock::new(())) };
        let inner = blocking(move || inner.prepare(&at).map(|()| inner)).await.map_err(|e| {
            Error::unavailable(
                format!("cannot use the media folder {}: check that it belongs to this user", root.display()),
                e,
            )
        })?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins a blob.
    #[must_use]
    pub fn draft(&self) -> Draft {
        Draft {
            blobs: self.clone(),
            pieces: Vec::new(),
            crumbs: BytesMut::new(),
            gathered: 0,
            size: 0,
            sink: Sink::Here(Box::new(Writing { hash: Sha256::new(), file: None })),
        }
    }

    /// Keeps bytes that are in memory.
    ///
    /// # Errors
    /// See [`Draft::finish`].
    pub async fn keep(&self, bytes: Bytes) -> Result<Kept> {
        let mut draft = self.draft();
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
            let mut file = File::open(path)?;
            let size = file.metadata()?.len();
            let range = range.unwrap_or(0..size);
            let (start, end) = (range.start.min(size), range.end.min(size));
            if start > 0 {
                file.seek(SeekFrom::Start(start))?;
            }
            let left = end.saturating_sub(start);
            let first = read_chunk(&mut file, left)?;
            Ok((file, left, first))
        });
        let (file, left, first) = match opened.await {
            Ok(opened) => opened,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(disk(e)),
        };
        let behind = left - first.len() as u64;
        Ok(Some(Reader { left, ready: Some(first), behind, file: Some(file), reading: None }))
    }

    /// Opens a blob as a file, for work on the blocking pool.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub fn open_blocking(&self, name: BlobName) -> io::Result<File> {
        File::open(self.inner.path(name))
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
        if self.gathered >= CHUNK {
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

/// The bytes of a blob, as a stream of chunks. One chunk is read ahead while another is on its way to the caller.
#[derive(Debug)]
pub struct Reader {
    left: u64,
    ready: Option<Bytes>,
    /// Bytes not yet asked of the disk.
    behind: u64,
    file: Option<File>,
    reading: Option<JoinHandle<io::Result<(File, Bytes)>>>,
}

impl Reader {
    /// Bytes still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    fn read_ahead(&mut self) {
        if self.behind > 0
            && let Some(mut file) = self.file.take()
        {
            let want = self.behind;
            self.behind = want.saturating_sub(CHUNK as u64);
            self.reading = Some(spawn_blocking(move || read_chunk(&mut file, want).map(|bytes| (file, bytes))));
        }
    }
}

impl Stream for Reader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let bytes = match (self.ready.take(), &mut self.reading) {
            (Some(bytes), _) => bytes,
            (None, Some(reading)) => {
                let read = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::other).and_then(|r| r);
                self.reading = None;
                match read {
                    Ok((file, bytes)) => {
                        self.file = Some(file);
                        bytes
                    }
                    Err(e) => {
                        self.left = 0;
                        return Poll::Ready(Some(Err(disk(e))));
                    }
                }
            }
            (None, None) => {
                self.left = 0;
                return Poll::Ready(Some(Err(Error::broken("a blob ended early"))));
            }
        };
        self.left = self.left.saturating_sub(bytes.len() as u64);
        self.read_ahead();
        Poll::Ready(Some(Ok(bytes)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, usize::try_from(self.left.div_ceil(CHUNK as u64)).ok())
    }
}

/// The next chunk of a file that has `left` bytes more.
fn read_chunk(file: &mut File, left: u64) -> io::Result<Bytes> {
    let mut buf = vec![0; usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))];
    file.read_exact(&mut buf)?;
    Ok(buf.into())
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

#[cfg(test)]
mod tests;
