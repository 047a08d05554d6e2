//! Stacks: what of a chain starts when, what it is made of, and how it looks.

pub mod dot;
pub mod graph;
pub mod moves;
pub mod placed;
pub mod placing;
pub mod staging;
pub mod watching;

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(super) mod samples;
