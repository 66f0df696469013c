//! Blobs come back as they went in, once each, whole or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::OpenOptions;

use futures_util::{FutureExt as _, StreamExt as _};

use super::{draft::GATHER, *};

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap()).collect()
}

async fn all(reader: Reader) -> Vec<u8> {
    let chunks: Vec<Bytes> = reader.map(Result::unwrap).collect().await;
    chunks.concat()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// What a dropped draft leaves is removed on another thread.
async fn until_empty(folder: &Path) {
    for _ in 0..200 {
        if files(folder).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("left behind: {:?}", files(folder));
}

#[tokio::test]
async fn bytes_come_back_whatever_the_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).await.unwrap();
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17, 2 * GATHER, 3 * GATHER - 4096] {
        let content = bytes(len);
        let mut names = Vec::new();
        for piece in [1000, 4096, 100_000, GATHER, 2 * GATHER + 1] {
            let mut draft = blobs.draft();
            // It may be more or fewer than was said.
            draft.expect(piece as u64);
            for (i, part) in content.chunks(piece).enumerate() {
                // Crumbs between large pieces keep their place.
                let (head, tail) = part.split_at(part.len().min(i % 3));
                draft.push(Bytes::copy_from_slice(head)).await.unwrap();
                draft.push(Bytes::copy_from_slice(tail)).await.unwrap();
            }
            assert_eq!(draft.size(), len as u64);
            let kept = draft.finish().await.unwrap();
            assert_eq!(kept.size, len as u64);
            names.push(kept.name);
        }
        names.dedup();
        assert_eq!(names.len(), 1, "one name for equal content");
        assert_eq!(names[0], BlobName(*blake3::hash(&content).as_bytes()));
        assert_eq!(names[0].to_string().parse::<BlobName>().unwrap(), names[0]);
        // From the disk, since writes pass by the page cache, and from the cache.
        for from in ["disk", "cache"] {
            let reader = blobs.read(names[0], None).await.unwrap().unwrap();
            assert_eq!(reader.left(), len as u64);
            assert!(all(reader).await == content, "{len} from the {from}");
        }
    }
    assert_eq!(files(&dir.path().join("blobs")).len(), 8);
    until_empty(&dir.path().join("tmp")).await;
}

#[tokio::test]
async fn a_part_is_read_alone() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).await.unwrap();
    let content = bytes(2 * CHUNK + 100);
    let name = blobs.keep(content.clone().into()).await.unwrap().name;
    let len = content.len() as u64;
    for range in [0..1, 5..700, CHUNK as u64 - 1..CHUNK as u64 + 1, len - 1..len, 0..len, 7..len + 500, len..len + 1] {
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end.min(len)).unwrap());
        let reader = blobs.read(name, Some(range.clone())).await.unwrap().unwrap();
        assert!(all(reader).await == content[start..end], "{range:?}");
    }
}

#[tokio::test]
async fn a_draft_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).await.unwrap();
    let mut draft = blobs.draft();
    // The second piece waits until the first is written.
    draft.push(bytes(GATHER + 1).into()).await.unwrap();
    draft.push(bytes(GATHER + 1).into()).await.unwrap();
    assert_eq!(files(&dir.path().join("tmp")).len(), 1);
    drop(draft);
    until_empty(dir.path()).await;
}

#[tokio::test]
async fn the_start_removes_what_a_crash_left_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let name = Blobs::open(dir.path()).await.unwrap().keep(Bytes::from_static(b"stays")).await.unwrap().name;
    fs::write(dir.path().join("tmp/12345-0"), b"half").unwrap();
    let blobs = Blobs::open(dir.path()).await.unwrap();
    assert!(files(&dir.path().join("tmp")).is_empty());
    assert_eq!(all(blobs.read(name, None).await.unwrap().unwrap()).await, b"stays");
}

#[tokio::test]
async fn half_a_file_under_a_name_is_replaced_and_never_served_as_whole() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).await.unwrap();
    let content = bytes(CHUNK + 5);
    let name = blobs.keep(content.clone().into()).await.unwrap().name;
    let mut reader = blobs.read(name, None).await.unwrap().unwrap();
    // As a disk that lost the end of it, while somebody reads.
    OpenOptions::new().write(true).open(blobs.inner.path(name)).unwrap().set_len(9).unwrap();
    assert!(reader.next().await.unwrap().is_ok());
    assert!(reader.next().await.unwrap().is_err(), "the end is missing, and that is said");
    assert!(reader.next().await.is_none());
    blobs.keep(content.clone().into()).await.unwrap();
    assert!(all(blobs.read(name, None).await.unwrap().unwrap()).await == content);
}

#[tokio::test]
async fn a_blob_goes_only_when_nobody_refers_to_it_or_is_about_to() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).await.unwrap();
    let kept = blobs.keep(Bytes::from_static(b"x")).await.unwrap();
    let name = kept.name;
    let mut removal = Box::pin(blobs.remove_unless(name, || async { Ok(false) }));
    assert!(removal.as_mut().now_or_never().is_none(), "waits for the row of the one who keeps it");
    drop(kept);
    assert!(removal.await.unwrap());
    assert!(blobs.read(name, None).await.unwrap().is_none());
    assert!(blobs.remove_unless(name, || async { Ok(false) }).await.unwrap(), "gone is gone");

    blobs.keep(Bytes::from_static(b"x")).await.unwrap();
    assert!(!blobs.remove_unless(name, || async { Ok(true) }).await.unwrap());
    assert!(blobs.read(name, None).await.unwrap().is_some());
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_told_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let error = Blobs::open(&dir.path().join("file")).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot use the media folder"), "{error}");
}

#[test]
fn only_hashes_are_names() {
    for name in ["", "ab", "../../etc/passwd", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65), &"é".repeat(32)] {
        assert!(name.parse::<BlobName>().is_err(), "{name}");
    }
}
