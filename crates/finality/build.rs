//! Compiles the custodians' messages from `proto/`, without a protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let files = protox::compile(["concordat/v1/consensus.proto"], [&root])?;
    println!("cargo::rerun-if-changed=../../proto/concordat/v1/consensus.proto");
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
