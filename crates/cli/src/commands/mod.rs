//! The commands, one module each. A command parses its arguments, does one thing and says what came of it.

pub mod get;
pub mod history;
pub mod key;
pub mod list;
pub mod machine;
pub mod publish;
pub mod send;
pub mod verify;
pub mod watch;
