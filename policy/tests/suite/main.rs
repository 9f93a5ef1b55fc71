//! Tests of the whole crate: from objects to verdicts.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod advice;
mod by_names;
mod directory;
mod documents;
mod explain;
mod files;
mod fuzz;
mod generate;
mod hostile;
mod incremental;
mod lines;
mod matrix;
mod mutate;
mod packets;
mod properties;
mod rejections;
mod runner;
mod schema;
mod services;
mod store;
mod support;
mod truth;
