//! Secrets on disk: written so that there is always a whole file, readable by us alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

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
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The disk may be full: what was begun only takes room.
        let _ = fs::remove_file(&beside);
    }
    written?;
    File::open(folder)?.sync_all()
}

/// Whether a certificate could be kept under a path: asked before one is ordered, since authorities count orders, and each
/// one that is lost brings the day nearer on which they refuse. It is tried beside that path, so that those who look for
/// others at the same time are not in the way.
///
/// # Errors
/// What the file system says.
pub(crate) fn has_room(path: &Path) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".room");
    let probe = path.with_file_name(name);
    write(&probe, &[0; ROOM], 0o600)?;
    fs::remove_file(&probe).map_err(|e| Error::File("remove", probe, e))
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
