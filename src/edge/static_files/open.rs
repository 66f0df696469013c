//! Opens a file below a folder: in one step that cannot be led out of it, with its precompressed forms.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, open as open_at, openat2},
    io::Errno,
};

use super::kinds;

/// A file with its precompressed forms.
pub(super) struct Opened {
    pub kind: &'static str,
    pub plain: Form,
    pub brotli: Option<Form>,
    pub gzip: Option<Form>,
}

/// One form of a file.
pub(super) struct Form {
    pub content: Content,
    pub length: u64,
    /// Strong, quoted.
    pub etag: String,
    pub modified: SystemTime,
}

/// Small files are held, large ones are open.
#[derive(Clone)]
pub(super) enum Content {
    Held(Bytes),
    File(Arc<File>),
}

/// Up to this size a file is held in memory.
const HELD: u64 = 64 * 1024;

impl Opened {
    /// A generated file.
    pub fn made(kind: &'static str, content: Bytes) -> Self {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let plain = Form {
            length: content.len() as u64,
            etag: format!("\"{:x}\"", hasher.finish()),
            modified: SystemTime::now(),
            content: Content::Held(content),
        };
        Self { kind, plain, brotli: None, gzip: None }
    }

    /// What it weighs in memory.
    pub fn weight(&self) -> usize {
        let forms = [Some(&self.plain), self.brotli.as_ref(), self.gzip.as_ref()];
        forms.into_iter().flatten().map(|f| if let Content::Held(b) = &f.content { b.len() } else { 512 }).sum()
    }
}

/// Opens a file and what lies compressed beside it; none if there is no such regular file.
pub(super) fn open(root: &Path, path: &str) -> Option<Opened> {
    let plain = form(root, path, "")?;
    // A compressed form older than the file is of another version of it.
    let beside =
        |suffix: &str| form(root, &format!("{path}.{suffix}"), suffix).filter(|f| f.modified >= plain.modified);
    let (brotli, gzip) = (beside("br"), beside("gz"));
    Some(Opened { kind: kinds::content_type(path), plain, brotli, gzip })
}

fn form(root: &Path, path: &str, suffix: &str) -> Option<Form> {
    let mut file = beneath(root, path)?;
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let modified = UNIX_EPOCH + Duration::new(meta.mtime().try_into().ok()?, meta.mtime_nsec().try_into().ok()?);
    let mark = if suffix.is_empty() { String::new() } else { format!("-{suffix}") };
    let etag = format!("\"{:x}{:x}-{:x}{mark}\"", meta.mtime(), meta.mtime_nsec(), meta.len());
    let mut length = meta.len();
    let content = if length <= HELD {
        let mut held = Vec::new();
        file.by_ref().take(HELD).read_to_end(&mut held).ok()?;
        length = held.len() as u64;
        Content::Held(held.into())
    } else {
        Content::File(Arc::new(file))
    };
    Some(Form { content, length, etag, modified })
}

/// Opens a path such that no part of it, links included, leads out of the folder.
fn beneath(root: &Path, path: &str) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let folder = open_at(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    match openat2(&folder, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
        Ok(file) => Some(file.into()),
        // Kernels and sandboxes without the call: follow all links first, then look where that led.
        Err(Errno::NOSYS | Errno::PERM) => {
            let (root, file) = (root.canonicalize().ok()?, root.join(path).canonicalize().ok()?);
            if !file.starts_with(&root) {
                return None;
            }
            rustix::fs::openat(CWD, &file, flags | OFlags::NOFOLLOW, Mode::empty()).ok().map(File::from)
        }
        Err(_) => None,
    }
}
