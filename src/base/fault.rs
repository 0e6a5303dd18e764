/// Whose move it is after something went wrong. Every error of every room answers `fault()` with one of these, and the faces ask
/// nothing else when they choose a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request is wrong; sending it again will not help.
    Client,
    /// What was asked for is not here.
    NotFound,
    /// It is here, but not for this principal.
    Denied,
    /// Nothing is wrong; come back later.
    Busy,
    /// Bytes on disk are not what they must be.
    Corrupt,
    /// Ours: a bug, a full disk, a failing device.
    Ours,
}
