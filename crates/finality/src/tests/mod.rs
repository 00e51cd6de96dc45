//! The core in a seeded network: whole custodians, one store each, virtual time. The ordered log between them is an ideal
//! one; everything else is what runs in production.

mod attack;
mod chaos;
mod crash;
mod decode;
mod durable;
mod evidence;
mod handover;
mod mutants;
mod net;
mod normal;
mod openings;
mod pace;
mod recover;
mod replay;
mod rows;
mod solo;
mod spread;
mod start;
mod state;
mod timers;
mod votes;
