//! `depot`: where repositories live. Turns names into directories and open repositories, and is the only room that knows the layout
//! above a repository. Nothing here is remembered that the disk does not say: whoever else makes, moves or removes repositories is
//! believed at the next request.

mod change;
mod details;
mod error;
mod fork;
mod house;
mod layout;
mod list;
mod memfs;
mod upkeep;

pub use details::Details;
pub use error::DepotError;
pub use house::{CreateOptions, Depot, DepotOptions, Lease};
pub use list::{Listed, Listing};
pub use memfs::{Layout, letta_memfs_name};
pub use upkeep::Upkeep;
