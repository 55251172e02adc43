//! Bakes the place of libtorch into the binaries (rpath), so that they start without LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        // Old-style DT_RPATH would beat LD_LIBRARY_PATH; --enable-new-dtags lets users point elsewhere.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib},--enable-new-dtags");
    }
}
