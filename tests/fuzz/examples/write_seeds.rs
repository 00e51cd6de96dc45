//! Writes the seeds into the corpus: `cargo run --example write_seeds` in this directory.

fn main() -> std::io::Result<()> {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for seed in concordat_fuzz::seeds::seeds() {
        let directory = corpus.join(seed.target);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(seed.name), seed.input)?;
    }
    Ok(())
}
