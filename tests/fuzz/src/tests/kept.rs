//! Every target over everything that was kept for it.

use std::fs;
use std::path::PathBuf;

use crate::TARGETS;

#[test]
fn nothing_that_was_kept_is_found_wrong() {
    for (name, target) in TARGETS {
        let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let folder = corpus.join(name);
        let mut count = 0;
        for entry in fs::read_dir(&folder).expect("every target has a corpus") {
            let path = entry.expect("the corpus can be read").path();
            // Shown if the target panics.
            println!("cargo run -p fuzz -- {name} {}", path.display());
            target(&fs::read(&path).expect("the corpus can be read"));
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}
