//! `protocol`.
