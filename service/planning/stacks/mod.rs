//! Stacks: what of a chain starts when, what it is made of, and how it looks.

pub mod dot;
pub mod graph;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod samples;
