use std::{fs::File, io};

use rustix::fs::{FlockOperation, flock};

/// A lock of an open file or directory, ours until this is dropped. The system gives it back when the process dies.
///
/// It is given back by name and not by closing the file: a process that is being started at that moment has a copy of the file until its program runs,
/// and would hold the lock for us.
#[derive(Debug)]
pub(crate) struct Flock {
    file: File,
}

impl Flock {
    /// As [`exclusive`](Self::exclusive), but others may have it like this at the same time.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn shared(file: File) -> io::Result<Self> {
        Self::wait(file, FlockOperation::LockShared)
    }

    /// Waits until nobody else has it.
    ///
    /// # Errors
    /// Those of flock(2); some network file systems have no such locks.
    pub(crate) fn exclusive(file: File) -> io::Result<Self> {
        Self::wait(file, FlockOperation::LockExclusive)
    }

    fn wait(file: File, how: FlockOperation) -> io::Result<Self> {
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Flock { file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// `None` when somebody else has it.
    ///
    /// # Errors
    /// As [`exclusive`](Self::exclusive).
    pub(crate) fn try_exclusive(file: File) -> io::Result<Option<Self>> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Flock { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        // Closing the file gives it back, too, only perhaps a moment later.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_free_at_once_even_if_a_process_that_is_being_started_has_a_copy() {
        let path = tempfile::NamedTempFile::new().expect("a temporary file");
        let open = || File::open(path.path()).expect("opened");
        let first = Flock::exclusive(open()).expect("locked");
        assert!(Flock::try_exclusive(open()).expect("no error").is_none());
        let copy = first.file.try_clone().expect("what fork does");
        drop(first);
        assert!(Flock::try_exclusive(open()).expect("no error").is_some());
        drop(copy);
    }
}
