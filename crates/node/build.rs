//! Compiles the protocol files with protox, so that no `protoc` is needed.

use std::path::Path;

include!("../../proto/shapes.rs");

/// The services of `proto/concordat/v1`, one file each: custodians, users and the operator are never mixed.
const FILES: [&str; 3] = ["peer.proto", "client.proto", "admin.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/concordat/v1");
    println!("cargo::rerun-if-changed={}", root.display());
    let present: Vec<_> = FILES.iter().map(|file| root.join(file)).filter(|path| path.exists()).collect();
    let descriptors = protox::compile(&present, [&root])?;
    println!("cargo::rerun-if-changed=../../proto/shapes.rs");
    // Users' messages have nothing repeated: they take no more memory than bytes, and need no shapes.
    let client = protox::compile(["client.proto"], [&root])?;
    for message in client.file.iter().flat_map(|file| &file.message_type) {
        if message.field.iter().any(|field| field.label().as_str_name() == "LABEL_REPEATED") {
            return Err(
                format!("{}: a repeated field of a user's message needs a bound", message.name()).into()
            );
        }
    }
    let peer = protox::compile(["peer.proto"], [&root])?;
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("shapes.rs"), shapes(&peer))?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
