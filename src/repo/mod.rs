//! `repo`.
