//! The tree of nodes: persistent, so that a snapshot for a transaction costs one reference count.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::path::Path;
use super::wire::XsError;

/// Counts changes to the store; a node carries the count of its last change.
pub(crate) type Generation = u64;

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Vec<u8>,
    /// As it goes over the wire: each entry with its terminating zero byte.
    pub(crate) permissions: Vec<u8>,
    /// When the value, the permissions or the set of children last changed.
    pub(crate) generation: Generation,
    children: BTreeMap<Vec<u8>, Arc<Node>>,
}

impl Node {
    /// The names of the children, in order.
    pub(crate) fn children(&self) -> impl Iterator<Item = &[u8]> {
        self.children.keys().map(Vec::as_slice)
    }

    fn empty_child_of(parent: &Self, generation: Generation) -> Self {
        Self {
            value: Vec::new(),
            permissions: parent.permissions.clone(),
            generation,
            children: BTreeMap::new(),
        }
    }

    fn collect_paths(&self, at: &Path, into: &mut Vec<Path>) {
        for (name, child) in &self.children {
            let path = at.child(name);
            child.collect_paths(&path, into);
            into.push(path);
        }
    }
}

/// What a removal did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// There was nothing there.
    Absent,
    /// The node is gone, and with it these beneath it.
    Removed { descendants: Vec<Path> },
}

/// The whole store's content. A clone is a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: Arc<Node>,
}

impl Tree {
    /// A tree that has only the root, owned by domain 0 and readable by all.
    pub(crate) fn new() -> Self {
        Self {
            root: Arc::new(Node {
                value: Vec::new(),
                permissions: b"r0\0".to_vec(),
                generation: 0,
                children: BTreeMap::new(),
            }),
        }
    }

    /// The node at a path.
    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        let mut node = &*self.root;
        for name in path.components() {
            node = node.children.get(name)?;
        }
        Some(node)
    }

    /// The node at a path for changing; it and its ancestors are made, with empty values, where they are missing.
    /// Returns also whether the node was made.
    fn get_or_make(&mut self, path: &Path, generation: Generation) -> (&mut Node, bool) {
        let mut node = Arc::make_mut(&mut self.root);
        let mut made = false;
        for name in path.components() {
            made = !node.children.contains_key(name);
            if made {
                let child = Node::empty_child_of(node, generation);
                node.children.insert(name.to_vec(), Arc::new(child));
                node.generation = generation;
            }
            let child = node.children.get_mut(name).expect("made above if missing");
            node = Arc::make_mut(child);
        }
        (node, made)
    }

    /// Stores a value.
    pub(crate) fn write(&mut self, path: &Path, value: &[u8], generation: Generation) {
        let (node, _) = self.get_or_make(path, generation);
        node.value = value.to_vec();
        node.generation = generation;
    }

    /// Makes a node if it is missing; returns whether it was.
    pub(crate) fn make(&mut self, path: &Path, generation: Generation) -> bool {
        self.get(path).is_none() && self.get_or_make(path, generation).1
    }

    /// Sets a node's permissions.
    ///
    /// # Errors
    /// `ENOENT` if there is no such node.
    pub(crate) fn set_permissions(
        &mut self,
        path: &Path,
        permissions: &[u8],
        generation: Generation,
    ) -> Result<(), XsError> {
        if self.get(path).is_none() {
            return Err(XsError::Enoent);
        }
        let (node, _) = self.get_or_make(path, generation);
        node.permissions = permissions.to_vec();
        node.generation = generation;
        Ok(())
    }

    /// Removes a node and all beneath it.
    ///
    /// # Errors
    /// `EINVAL` for the root, `ENOENT` if not even the parent exists.
    pub(crate) fn remove(
        &mut self,
        path: &Path,
        generation: Generation,
    ) -> Result<Removal, XsError> {
        let parent_path = path.parent().ok_or(XsError::Einval)?;
        if self.get(&parent_path).is_none() {
            return Err(XsError::Enoent);
        }
        let Some(node) = self.get(path) else {
            return Ok(Removal::Absent);
        };
        let mut descendants = Vec::new();
        node.collect_paths(path, &mut descendants);
        let name = path
            .components()
            .last()
            .expect("not the root, as it has a parent");
        let (parent, _) = self.get_or_make(&parent_path, generation);
        parent.children.remove(name);
        parent.generation = generation;
        Ok(Removal::Removed { descendants })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::resolve(text.as_bytes()).unwrap()
    }

    #[test]
    fn writing_makes_the_parents_and_snapshots_do_not_change() {
        let mut tree = Tree::new();
        tree.write(&path("/a/b/c"), b"1", 1);
        let snapshot = tree.clone();
        tree.write(&path("/a/b/c"), b"2", 2);
        tree.write(&path("/a/d"), b"3", 3);
        assert_eq!(snapshot.get(&path("/a/b/c")).unwrap().value, b"1");
        assert!(snapshot.get(&path("/a/d")).is_none());
        assert_eq!(tree.get(&path("/a/b/c")).unwrap().value, b"2");
        assert_eq!(tree.get(&path("/a/b")).unwrap().value, b"");
        assert_eq!(tree.get(&path("/a")).unwrap().generation, 3);
        assert_eq!(tree.get(&path("/a/b")).unwrap().generation, 1);
    }

    #[test]
    fn removal_names_the_descendants() {
        let mut tree = Tree::new();
        tree.write(&path("/a/b/c"), b"", 1);
        tree.write(&path("/a/d"), b"", 2);
        assert_eq!(
            tree.remove(&path("/a"), 3),
            Ok(Removal::Removed {
                descendants: vec![path("/a/b/c"), path("/a/b"), path("/a/d")]
            })
        );
        assert_eq!(tree.remove(&path("/a"), 4), Ok(Removal::Absent));
        assert_eq!(tree.remove(&path("/a/b"), 5), Err(XsError::Enoent));
        assert_eq!(tree.remove(&path("/"), 6), Err(XsError::Einval));
    }

    #[test]
    fn children_inherit_permissions() {
        let mut tree = Tree::new();
        tree.make(&path("/a"), 1);
        tree.set_permissions(&path("/a"), b"n5\0r0\0", 2).unwrap();
        tree.write(&path("/a/b"), b"", 3);
        assert_eq!(tree.get(&path("/a/b")).unwrap().permissions, b"n5\0r0\0");
        assert_eq!(
            tree.set_permissions(&path("/x"), b"n5\0", 4),
            Err(XsError::Enoent)
        );
    }
}
