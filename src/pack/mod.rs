//! `pack`.
