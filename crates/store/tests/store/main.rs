//! Every engine against the same functions, against a model, and against kill -9.

mod conformance;
mod crash;
mod engines;
mod kill;
mod memory;
mod model;
