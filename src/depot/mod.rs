//! `depot`.
