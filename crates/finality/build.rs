//! Compiles the custodians' messages from `proto/`, without a protoc.

include!("../../proto/shapes.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let files = protox::compile(["concordat/v1/consensus.proto"], [&root])?;
    println!("cargo::rerun-if-changed=../../proto/concordat/v1/consensus.proto");
    println!("cargo::rerun-if-changed=../../proto/shapes.rs");
    let shapes_file = std::path::Path::new(&std::env::var("OUT_DIR")?).join("shapes.rs");
    std::fs::write(shapes_file, shapes(&files))?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
