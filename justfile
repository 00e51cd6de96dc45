# `just check` is the gate: it changes nothing and does what continuous integration does. `just fix` mends what can be mended.

# The read-only gate: the same steps, in the same order, as .ci/run.
check:
    .ci/run

# Formats, and applies what clippy can apply by itself.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# The tests alone.
test:
    cargo test --workspace

# One decoder under the fuzzer (tests/fuzz/README.md): `just fuzz event -max_total_time=600`.
fuzz TARGET *ARGS:
    cargo fuzz run -s none --fuzz-dir tests/fuzz {{TARGET}} -- -rss_limit_mb=2048 -timeout=10 {{ARGS}}

# A bet settled by four custodians on this computer, one of them killed on the way.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Whole custodians in virtual time: `just sim --seeds 0..100`, `just sim --seeds 7..8 --custodians 7 --log seed-7.log`.
sim *ARGS:
    cargo run --release -p chaos -- sim {{ARGS}}

# Real custodians in network namespaces under faults, with users whose history is judged (needs root): `just cluster --seconds 600 --dir /tmp/run`.
cluster *ARGS:
    cargo build --release -p concordat -p chaos
    target/release/chaos cluster {{ARGS}}
