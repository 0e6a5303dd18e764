//! The one place with `unsafe`: whole files mapped read-only.
//!
//! Why it is sound in practice: everything mapped here (packs, indexes) is by git's rules written once under a temporary name, renamed into place, and never
//! written again; deleting such a file leaves the mapping intact. A process that truncates a live pack breaks git's own rules, and would end this
//! process with SIGBUS as it would end git's.
#![allow(unsafe_code)]

use std::{fs::File, io, ops::Deref, path::Path};

/// The bytes of a file as they were when it was opened. Holds no file descriptor.
pub struct Mmap {
    // `None` for an empty file, which cannot be mapped.
    inner: Option<memmap2::Mmap>,
}

impl Mmap {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// Whatever opening or mapping answers; `InvalidInput` for something that is not a regular file (a directory, a fifo).
    pub fn open(path: &Path) -> io::Result<Mmap> {
        Self::of(&File::open(path)?)
    }

    /// Maps an open file. The descriptor may be closed afterwards.
    pub fn of(file: &File) -> io::Result<Mmap> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if meta.len() == 0 {
            return Ok(Mmap { inner: None });
        }
        let len = usize::try_from(meta.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "larger than the address space"))?;
        // SAFETY: the mapping is read-only and private; see the module's words on who may write the file.
        let inner = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
        Ok(Mmap { inner: Some(inner) })
    }
}

impl Deref for Mmap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.inner.as_deref().unwrap_or_default()
    }
}

impl AsRef<[u8]> for Mmap {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_outlives_its_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("f");
        std::fs::write(&path, b"hello").expect("write");
        let map = Mmap::open(&path).expect("map");
        std::fs::remove_file(&path).expect("remove");
        assert_eq!(&*map, b"hello");
    }

    #[test]
    fn an_empty_file_is_empty_and_a_directory_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("f");
        std::fs::write(&path, b"").expect("write");
        assert!(Mmap::open(&path).expect("map").is_empty());
        assert!(Mmap::open(dir.path()).is_err());
        assert!(Mmap::open(&dir.path().join("absent")).is_err());
    }
}
