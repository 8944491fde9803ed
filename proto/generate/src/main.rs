//! Writes the Rust types of the control API, and its descriptors for reflection, into `src/proto/`.

use std::{error::Error, fs, path::Path};

use prost::Message as _;
use sha2::{Digest as _, Sha256};

const SCHEMA: &str = "cachectl/v1/control.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (schemas, out) = (root.join("proto"), root.join("src/proto"));
    // With comments, so that a tool that asks by reflection can show them.
    let mut descriptors = protox::Compiler::new([&schemas])?;
    descriptors
        .include_imports(true)
        .include_source_info(true)
        .open_file(SCHEMA)?;
    let set = descriptors.file_descriptor_set();
    fs::write(out.join("cachectl.v1.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure()
        .out_dir(&out)
        .emit_rerun_if_changed(false)
        .compile_fds(set)?;
    // A test compares it with the schema: who changes that and does not come here is told.
    let digest = const_hex::encode(Sha256::digest(fs::read(schemas.join(SCHEMA))?));
    fs::write(out.join("control.proto.sha256"), digest + "\n")?;
    Ok(())
}
