//! Tells the linker where the packaged daemon finds libxenevtchn.

fn main() {
    // xenevtchn loads `libxenevtchn.so` at run time, by its unversioned name. A dom0 without development packages
    // has only `libxenevtchn.so.1`, so the package puts a link of the unversioned name into this folder.
    println!("cargo::rustc-link-arg-bins=-Wl,-rpath,/usr/lib/cowback");
    println!("cargo::rerun-if-changed=build.rs");
}
