//! Bakes the place of libtorch into the fuzz targets (rpath), as the main build does.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib},--enable-new-dtags");
    }
}
