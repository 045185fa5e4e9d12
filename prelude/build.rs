//! The built-in models are part of the library: built again when they change.

fn main() {
    println!("cargo::rerun-if-changed=builtin");
}
