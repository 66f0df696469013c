//! placeholder

pub mod edge;
