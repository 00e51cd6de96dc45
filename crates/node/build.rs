//! Compiles the protocol files with protox, so that no `protoc` is needed.

use std::path::Path;

/// The services of `proto/concordat/v1`, one file each: custodians, users and the operator are never mixed.
const FILES: [&str; 3] = ["peer.proto", "client.proto", "admin.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/concordat/v1");
    println!("cargo::rerun-if-changed={}", root.display());
    let present: Vec<_> = FILES.iter().map(|file| root.join(file)).filter(|path| path.exists()).collect();
    let descriptors = protox::compile(&present, [&root])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
