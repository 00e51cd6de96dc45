//! Writes the seeds into the corpus: `cargo run --example write_seeds` in this directory.

fn main() -> std::io::Result<()> {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, name, input) in concordat_fuzz::every_seed() {
        let directory = corpus.join(target);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(name), input)?;
    }
    Ok(())
}
