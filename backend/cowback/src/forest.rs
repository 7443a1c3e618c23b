//! Disks that lie over each other, as trees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::output;

/// Images and what they lie over.
#[derive(Default)]
pub(crate) struct Forest {
    disks: BTreeMap<PathBuf, Node>,
    over: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

/// What is known of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// `dscow` or `raw`.
    pub(crate) format: &'static str,
    /// Bytes that a guest sees.
    pub(crate) virtual_size: Option<u64>,
    /// Bytes that its file takes on the host's disk.
    pub(crate) storage: Option<u64>,
    /// Why it cannot be looked at.
    pub(crate) problem: Option<String>,
}

impl Forest {
    pub(crate) fn add(&mut self, path: PathBuf, node: Node) {
        self.disks.insert(path, node);
    }

    pub(crate) fn has(&self, path: &Path) -> bool {
        self.disks.contains_key(path)
    }

    /// Says why a disk that is there cannot be used. What was said first, stands.
    pub(crate) fn note_problem(&mut self, path: &Path, problem: String) {
        if let Some(node) = self.disks.get_mut(path) {
            node.problem.get_or_insert(problem);
        }
    }

    pub(crate) fn has_problems(&self) -> bool {
        self.disks.values().any(|node| node.problem.is_some())
    }

    /// Puts an image over its base; not if the base lies over the image, in a circle that nobody could draw. Says whether
    /// it did.
    pub(crate) fn put_over(&mut self, base: PathBuf, image: PathBuf) -> bool {
        let is_circle = self.reaches(&image, &base);
        if !is_circle {
            self.over.entry(base).or_default().insert(image);
        }
        !is_circle
    }

    /// Whether one is the other, or lies below it.
    fn reaches(&self, below: &Path, path: &Path) -> bool {
        below == path || self.above(below).any(|above| self.reaches(above, path))
    }

    /// Those that lie over nothing.
    fn roots(&self) -> impl Iterator<Item = &Path> {
        let above: BTreeSet<_> = self.over.values().flatten().collect();
        let roots = self.disks.keys().filter(move |path| !above.contains(path));
        roots.map(PathBuf::as_path)
    }

    fn above(&self, path: &Path) -> impl ExactSizeIterator<Item = &Path> {
        static NOTHING: BTreeSet<PathBuf> = BTreeSet::new();
        let above = self.over.get(path).unwrap_or(&NOTHING);
        above.iter().map(PathBuf::as_path)
    }

    /// One line for each disk, each below what it lies over: what stands before its name, its path, and what it is.
    pub(crate) fn lines(&self) -> Vec<(String, &Path, &Node)> {
        let mut lines = Vec::new();
        for root in self.roots() {
            self.lines_from(root, "", "", &mut lines);
        }
        lines
    }

    /// `first` stands before the disk itself, `rest` before all that lies over it.
    fn lines_from<'f>(
        &'f self,
        path: &'f Path,
        first: &str,
        rest: &str,
        lines: &mut Vec<(String, &'f Path, &'f Node)>,
    ) {
        let Some(node) = self.disks.get(path) else {
            return;
        };
        lines.push((first.to_owned(), path, node));
        let count = self.above(path).len();
        for (index, above) in self.above(path).enumerate() {
            let (branch, trunk) = if index + 1 == count {
                ("└── ", "    ")
            } else {
                ("├── ", "│   ")
            };
            self.lines_from(
                above,
                &format!("{rest}{branch}"),
                &format!("{rest}{trunk}"),
                lines,
            );
        }
    }

    /// For programs: the disks that lie over nothing, each with those that lie over it.
    pub(crate) fn as_json(&self) -> Value {
        self.roots().map(|root| self.json_from(root)).collect()
    }

    fn json_from(&self, path: &Path) -> Value {
        let node = self.disks.get(path);
        json!({
            "path": output::path(path),
            "format": node.map(|node| node.format),
            "virtual_size_bytes": node.and_then(|node| node.virtual_size),
            "storage_bytes": node.and_then(|node| node.storage),
            "problem": node.and_then(|node| node.problem.clone()),
            "overlays": self.above(path).map(|above| self.json_from(above)).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forest(pairs: &[(&str, &str)]) -> Forest {
        let mut forest = Forest::default();
        let node = Node {
            format: "dscow",
            virtual_size: Some(1),
            storage: Some(1),
            problem: None,
        };
        for (base, image) in pairs {
            for path in [base, image].into_iter().filter(|path| !path.is_empty()) {
                forest.add(path.into(), node.clone());
            }
            if !base.is_empty() {
                forest.put_over(base.into(), image.into());
            }
        }
        forest
    }

    #[test]
    fn no_disk_is_put_over_itself() {
        let mut forest = forest(&[("a", "b"), ("b", "c")]);
        for (base, image) in [("a", "a"), ("b", "a"), ("c", "a")] {
            assert!(!forest.put_over(base.into(), image.into()), "{base}");
        }
        assert!(forest.put_over("a".into(), "b".into()));
        assert_eq!(forest.lines().len(), 3);
        assert!(!forest.has_problems());
        forest.note_problem(Path::new("a"), "first".to_owned());
        forest.note_problem(Path::new("a"), "second".to_owned());
        assert!(forest.has_problems());
        assert_eq!(forest.as_json()[0]["problem"], "first");
    }

    #[test]
    fn what_lies_over_a_disk_is_below_it_on_the_screen() {
        let forest = forest(&[("a", "b"), ("a", "c"), ("b", "d"), ("b", "e"), ("", "z")]);
        let lines: Vec<_> = forest
            .lines()
            .into_iter()
            .map(|(before, path, _)| format!("{before}{}", path.display()))
            .collect();
        assert_eq!(
            lines,
            ["a", "├── b", "│   ├── d", "│   └── e", "└── c", "z"]
        );
        let json = forest.as_json();
        assert_eq!(json[0]["overlays"][0]["overlays"][1]["path"], "e");
        assert_eq!(json[1]["path"], "z");
    }
}
