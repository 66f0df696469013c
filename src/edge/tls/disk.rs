//! Secrets on disk: written so that there is always a whole file, readable by us alone.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use tempfile::{Builder, NamedTempFile};

use crate::Error;

/// More than a key and its chain take, bytes.
const ROOM: usize = 32 * 1024;

/// Writes a file by way of a temporary one beside it: synced, renamed, and the folder synced.
///
/// # Errors
/// What the file system says; the old file is then still whole.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    write_inner(path, content, mode).map_err(|e| Error::File("write", path.to_owned(), e))
}

fn write_inner(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    beside(path, content, mode)?.persist(path)?;
    File::open(folder_of(path))?.sync_all()
}

/// A synced file with this content in the folder of another, which is made if need be, under a name that nobody else
/// has. It is removed when dropped, so that nothing stays of what a full disk did not take whole.
fn beside(path: &Path, content: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let folder = folder_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file = Builder::new().prefix(".new-").permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Whether a certificate could be kept in a file: asked before one is ordered, since authorities count orders, and each
/// one that is lost brings the day nearer on which they refuse. The file stays as it is, and nothing stays beside it.
///
/// # Errors
/// What the file system says.
pub(crate) fn has_room(path: &Path) -> Result<(), Error> {
    beside(path, &[0; ROOM], 0o600).map(drop).map_err(|e| Error::File("write", path.to_owned(), e))
}

/// Reads a file whole, or none if there is no such file.
///
/// # Errors
/// Anything else the file system says.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::File("read", path.to_owned(), e)),
    }
}
