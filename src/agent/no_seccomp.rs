//! The numbers of the kernel's calls are another list for each kind of processor, and for this one there is none here.

use super::sandbox::Calls;

/// Bounds nothing.
///
/// # Errors
/// Always.
pub(super) fn restrict(_: &Calls) -> Result<(), String> {
    let arch = std::env::consts::ARCH;
    Err(format!("the calls of a processor '{arch}' are not known"))
}
