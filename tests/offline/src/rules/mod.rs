//! The rules, by what they look at.

pub mod code;
pub mod commands;
pub mod crates;
pub mod domain;
pub mod makefile;
pub mod markdown;
pub mod proto;
pub mod size;
pub mod words;
