//! The crate from outside: whole ceremonies and whole certificates, honest and not.

mod ceremony;
mod net;
