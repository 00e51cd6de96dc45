//! Tests that need what lies inside: figures, not rules.

mod machines_cost;
