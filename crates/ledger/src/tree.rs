//! The state tree: a compressed sparse Merkle tree over SHA-256(key).
//!
//! A subtree without leaves is the zero hash, one with a single leaf *is* that leaf, any other hashes its two halves;
//! leaf and inner hashes carry different tags. So the root depends on the leaves only, not on the order or number of
//! writes that led to them. Nodes lie in the store by their path, so that one version is kept, the certified one, and
//! nothing is left to collect. A head's changes are applied together, in one walk from the root.

use concordat_events::Hash;
use concordat_events::hash::tagged;
use concordat_store::StoreError;
use sha2::{Digest, Sha256};

use crate::layer::{Overlay, Read};

/// What node keys begin with.
pub(crate) const NODES: u8 = b'n';

/// The place of a key in the tree.
pub(crate) fn place(key: &[u8]) -> Hash {
    Hash::from_bytes(Sha256::digest(key).into())
}

/// The hash of a leaf: its place and the hash of its value.
pub(crate) fn leaf_hash(place: &Hash, value_hash: &Hash) -> Hash {
    tagged("concordat/leaf", &[place.as_bytes(), value_hash.as_bytes()])
}

/// The hash of a value. A proof of absence shows another leaf by this, without its value.
pub(crate) fn value_hash(value: &[u8]) -> Hash {
    tagged("concordat/value", &[value])
}

/// The hash of an inner node.
pub(crate) fn inner_hash(left: &Hash, right: &Hash) -> Hash {
    tagged("concordat/node", &[left.as_bytes(), right.as_bytes()])
}

/// Bit `depth` of a place, the most significant first; true goes right.
pub(crate) fn bit(place: &Hash, depth: usize) -> bool {
    place.as_bytes().get(depth / 8).is_some_and(|byte| byte & (0x80 >> (depth % 8)) != 0)
}

/// How many leading bits two places share.
pub(crate) fn shared_bits(a: &Hash, b: &Hash) -> usize {
    let mut bits = 0;
    for (a, b) in a.as_bytes().iter().zip(b.as_bytes()) {
        let same = (a ^ b).leading_zeros() as usize;
        bits += same;
        if same < 8 {
            break;
        }
    }
    bits
}

/// A node as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// The only leaf of its subtree.
    Leaf { place: Hash, value: Hash },
    /// Two halves; zero for an empty one.
    Inner { left: Hash, right: Hash },
}

impl Node {
    pub(crate) fn hash(&self) -> Hash {
        match self {
            Node::Leaf { place, value } => leaf_hash(place, value),
            Node::Inner { left, right } => inner_hash(left, right),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (tag, first, second) = match self {
            Node::Leaf { place, value } => (0, place, value),
            Node::Inner { left, right } => (1, left, right),
        };
        [&[tag], first.as_bytes().as_slice(), second.as_bytes().as_slice()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let (first, second) = rest.split_at_checked(32)?;
        let (first, second) = (Hash::from_slice(first)?, Hash::from_slice(second)?);
        match tag {
            0 => Some(Node::Leaf { place: first, value: second }),
            1 => Some(Node::Inner { left: first, right: second }),
            _ => None,
        }
    }
}

/// The path to a node: the first `depth` bits of every place below it.
#[derive(Clone, Copy)]
struct Path {
    depth: usize,
    bits: [u8; 32],
}

impl Path {
    const ROOT: Path = Path { depth: 0, bits: [0; 32] };

    fn child(mut self, right: bool) -> Path {
        if let Some(byte) = self.bits.get_mut(self.depth / 8).filter(|_| right) {
            *byte |= 0x80 >> (self.depth % 8);
        }
        self.depth += 1;
        self
    }

    fn key(&self) -> Vec<u8> {
        let mut key = vec![NODES];
        key.extend_from_slice(&u16::try_from(self.depth).unwrap_or(u16::MAX).to_be_bytes());
        key.extend(self.bits.iter().take(self.depth.div_ceil(8)));
        key
    }
}

fn load<R: Read>(read: &R, path: &Path) -> Result<Option<Node>, StoreError> {
    let key = path.key();
    let Some(bytes) = read.get(&key)? else { return Ok(None) };
    match Node::decode(&bytes) {
        Some(node) => Ok(Some(node)),
        None => Err(crate::keys::corrupt(&key, "expected a node of the state tree")),
    }
}

/// A change: a place and the hash of its new value, or `None` to remove it.
pub(crate) type Change = (Hash, Option<Hash>);

/// The root of the tree.
pub(crate) fn root<R: Read>(read: &R) -> Result<Hash, StoreError> {
    Ok(load(read, &Path::ROOT)?.map_or(Hash::ZERO, |node| node.hash()))
}

/// Applies changes, in any order but each place once, and returns the new root.
pub(crate) fn update<R: Read>(
    overlay: &mut Overlay<'_, R>,
    mut changes: Vec<Change>,
) -> Result<Hash, StoreError> {
    changes.sort_unstable_by_key(|(place, _)| *place);
    let old = load(overlay, &Path::ROOT)?;
    let new = change(overlay, Path::ROOT, old, &changes)?;
    Ok(new.map_or(Hash::ZERO, |node| node.hash()))
}

fn write<R: Read>(overlay: &mut Overlay<'_, R>, path: &Path, node: &Node) {
    overlay.put(path.key(), node.encode());
}

/// Changes the subtree at `path`, whose node is `old`, and returns its new node.
fn change<R: Read>(
    overlay: &mut Overlay<'_, R>,
    path: Path,
    old: Option<Node>,
    changes: &[Change],
) -> Result<Option<Node>, StoreError> {
    if changes.is_empty() {
        return Ok(old);
    }
    let Some(Node::Inner { left, right }) = old else {
        let mut leaves: Vec<(Hash, Hash)> =
            changes.iter().filter_map(|(place, value)| value.map(|value| (*place, value))).collect();
        if let Some(Node::Leaf { place, value }) = old
            && changes.binary_search_by_key(&place, |(place, _)| *place).is_err()
        {
            let at = leaves.partition_point(|(other, _)| *other < place);
            leaves.insert(at, (place, value));
        }
        if old.is_some() && leaves.is_empty() {
            overlay.delete(path.key());
        }
        return Ok(build(overlay, path, &leaves));
    };
    let middle = changes.partition_point(|(place, _)| !bit(place, path.depth));
    let (to_left, to_right) = changes.split_at(middle);
    let left = half(overlay, path.child(false), left, to_left)?;
    let right = half(overlay, path.child(true), right, to_right)?;
    let node = match (left, right) {
        (Half::Empty, Half::Empty) => {
            overlay.delete(path.key());
            return Ok(None);
        }
        // One half is empty: if the other is a single leaf, that leaf moves up.
        (Half::Empty, other) => match other.node(overlay, path.child(true))? {
            Some(leaf @ Node::Leaf { .. }) => {
                overlay.delete(path.child(true).key());
                leaf
            }
            _ => Node::Inner { left: Hash::ZERO, right: other.hash() },
        },
        (other, Half::Empty) => match other.node(overlay, path.child(false))? {
            Some(leaf @ Node::Leaf { .. }) => {
                overlay.delete(path.child(false).key());
                leaf
            }
            _ => Node::Inner { left: other.hash(), right: Hash::ZERO },
        },
        (left, right) => Node::Inner { left: left.hash(), right: right.hash() },
    };
    write(overlay, &path, &node);
    Ok(Some(node))
}

/// One half of an inner node after its changes.
#[derive(Clone, Copy)]
enum Half {
    Empty,
    /// Not touched, so not loaded.
    Same(Hash),
    Changed(Node),
}

impl Half {
    fn hash(&self) -> Hash {
        match self {
            Half::Empty => Hash::ZERO,
            Half::Same(hash) => *hash,
            Half::Changed(node) => node.hash(),
        }
    }

    fn node<R: Read>(&self, read: &R, path: Path) -> Result<Option<Node>, StoreError> {
        match self {
            Half::Empty => Ok(None),
            Half::Same(_) => load(read, &path),
            Half::Changed(node) => Ok(Some(*node)),
        }
    }
}

fn half<R: Read>(
    overlay: &mut Overlay<'_, R>,
    path: Path,
    hash: Hash,
    changes: &[Change],
) -> Result<Half, StoreError> {
    if changes.is_empty() {
        return Ok(if hash == Hash::ZERO { Half::Empty } else { Half::Same(hash) });
    }
    let old = if hash == Hash::ZERO { None } else { load(overlay, &path)? };
    Ok(change(overlay, path, old, changes)?.map_or(Half::Empty, Half::Changed))
}

/// Writes a subtree that holds exactly `leaves`, sorted.
fn build<R: Read>(overlay: &mut Overlay<'_, R>, path: Path, leaves: &[(Hash, Hash)]) -> Option<Node> {
    let node = match leaves {
        [] => return None,
        [(place, value)] => Node::Leaf { place: *place, value: *value },
        // Two places that agree in every bit are one place, and each stands here once.
        _ if path.depth >= crate::limits::PROOF_DEPTH => return None,
        _ => {
            let middle = leaves.partition_point(|(place, _)| !bit(place, path.depth));
            let (left, right) = leaves.split_at(middle);
            let left = build(overlay, path.child(false), left);
            let right = build(overlay, path.child(true), right);
            let hash = |node: Option<Node>| node.map_or(Hash::ZERO, |node| node.hash());
            Node::Inner { left: hash(left), right: hash(right) }
        }
    };
    write(overlay, &path, &node);
    Some(node)
}

/// The hash of a subtree that holds exactly `leaves` (place and value hash, sorted by place).
pub(crate) fn subtree_hash(leaves: &[(Hash, Hash)], depth: usize) -> Hash {
    match leaves {
        [] => Hash::ZERO,
        [(place, value)] => leaf_hash(place, value),
        _ if depth >= crate::limits::PROOF_DEPTH => Hash::ZERO,
        _ => {
            let middle = leaves.partition_point(|(place, _)| !bit(place, depth));
            let (left, right) = leaves.split_at(middle);
            inner_hash(&subtree_hash(left, depth + 1), &subtree_hash(right, depth + 1))
        }
    }
}

/// Writes the subtree at the first `beside.len()` bits of `from`, and the nodes above it, whose other halves are `beside`.
pub(crate) fn plant<R: Read>(
    overlay: &mut Overlay<'_, R>,
    from: &Hash,
    leaves: &[(Hash, Hash)],
    beside: &[Hash],
) {
    let mut paths = vec![Path::ROOT];
    for depth in 0..beside.len() {
        let parent = paths.last().copied().unwrap_or(Path::ROOT);
        paths.push(parent.child(bit(from, depth)));
    }
    let Some(place) = paths.pop() else { return };
    let mut hash = build(overlay, place, leaves).map_or(Hash::ZERO, |node| node.hash());
    for (path, beside) in paths.iter().zip(beside).rev() {
        let node = if bit(from, path.depth) {
            Node::Inner { left: *beside, right: hash }
        } else {
            Node::Inner { left: hash, right: *beside }
        };
        write(overlay, path, &node);
        hash = node.hash();
    }
}

/// The way from the root to a place: the hashes beside it, from the root down, and the node at its end.
pub(crate) fn walk<R: Read>(read: &R, place: &Hash) -> Result<(Vec<Hash>, Option<Node>), StoreError> {
    let mut beside = Vec::new();
    let mut path = Path::ROOT;
    loop {
        match load(read, &path)? {
            Some(Node::Inner { left, right }) if beside.len() < crate::limits::PROOF_DEPTH => {
                let right_side = bit(place, path.depth);
                beside.push(if right_side { left } else { right });
                path = path.child(right_side);
            }
            end => return Ok((beside, end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use concordat_store::memory::MemoryStore;
    use proptest::prelude::*;

    use super::*;
    use crate::layer::Certified;

    /// The definition of the root, without a tree.
    fn naive(leaves: &[(Hash, Hash)], depth: usize) -> Hash {
        match leaves {
            [] => Hash::ZERO,
            [(place, value)] => leaf_hash(place, value),
            _ => {
                let (right, left): (Vec<_>, Vec<_>) = leaves.iter().partition(|(place, _)| bit(place, depth));
                inner_hash(&naive(&left, depth + 1), &naive(&right, depth + 1))
            }
        }
    }

    fn naive_root(model: &BTreeMap<Vec<u8>, Vec<u8>>) -> Hash {
        let leaves: Vec<_> = model.iter().map(|(key, value)| (place(key), value_hash(value))).collect();
        naive(&leaves, 0)
    }

    fn changes(set: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Vec<Change> {
        set.iter().map(|(key, value)| (place(key), value.as_deref().map(value_hash))).collect()
    }

    /// A place whose bits are those of `n` behind a common start, so that paths are long and share much.
    fn near(n: u8) -> Hash {
        let mut bytes = [0; 32];
        bytes[2] = n;
        Hash::from_bytes(bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// After any heads of puts and removals the root is that of the leaves left, and so are the stored nodes.
        #[test]
        fn the_root_is_that_of_the_leaves(
            heads in prop::collection::vec(
                prop::collection::btree_map(0u8..40, prop::option::weighted(0.6, any::<u8>()), 0..20), 1..8)
        ) {
            let mut certified = Certified::new(MemoryStore::default());
            let mut model = BTreeMap::new();
            for (height, head) in heads.into_iter().enumerate() {
                let set: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
                    head.into_iter().map(|(key, value)| (vec![key], value.map(|value| vec![value]))).collect();
                let mut overlay = Overlay::new(&certified);
                let new = update(&mut overlay, changes(&set)).unwrap();
                let writes = overlay.writes;
                certified.install(height as u64, writes);
                for (key, value) in set {
                    match value {
                        Some(value) => model.insert(key, value),
                        None => model.remove(&key),
                    };
                }
                prop_assert_eq!(new, naive_root(&model));
                prop_assert_eq!(root(&certified).unwrap(), new);
                // No node of an old version is left: n leaves need at least n nodes, and none when empty.
                let nodes = certified.scan(&[NODES], &[], usize::MAX).unwrap();
                prop_assert_eq!(nodes.is_empty(), model.is_empty());
                let leaves = nodes.iter().filter(|(_, node)| node[0] == 0).count();
                prop_assert_eq!(leaves, model.len());
            }
        }

        /// The order and grouping of changes leave no trace; removing all gives the empty root.
        #[test]
        fn order_leaves_no_trace(places in prop::collection::btree_set(any::<u8>(), 1..30), seed in any::<u64>()) {
            let certified = Certified::new(MemoryStore::default());
            let put: Vec<Change> = places.iter().map(|n| (near(*n), Some(near(*n)))).collect();
            let mut shuffled = put.clone();
            shuffled.sort_by_key(|(place, _)| tagged("shuffle", &[&seed.to_be_bytes(), place.as_bytes()]));
            let mut together = Overlay::new(&certified);
            let root_together = update(&mut together, put).unwrap();
            let mut single = Overlay::new(&certified);
            let mut roots = vec![Hash::ZERO];
            for change in &shuffled {
                roots.push(update(&mut single, vec![*change]).unwrap());
            }
            prop_assert_eq!(roots.last(), Some(&root_together));
            for (place, _) in shuffled.iter().rev() {
                prop_assert_eq!(Some(root(&single).unwrap()), roots.pop());
                update(&mut single, vec![(*place, None)]).unwrap();
            }
            prop_assert_eq!(root(&single).unwrap(), Hash::ZERO);
            prop_assert!(single.writes.values().all(Option::is_none));
        }
    }

    #[test]
    fn roots_are_pinned() {
        let certified = Certified::new(MemoryStore::default());
        let mut overlay = Overlay::new(&certified);
        let mut roots = Vec::new();
        for n in 0u8..4 {
            let key = format!("key/{n}");
            let change = (place(key.as_bytes()), Some(value_hash(&[n])));
            roots.push(update(&mut overlay, vec![change]).unwrap().to_hex());
        }
        assert_eq!(roots, PINNED);
    }

    const PINNED: [&str; 4] = [
        "ca61eac55ac6e19579beb1db4e8f530db15e168657b7697a42dda8d87a361f86",
        "85c3bf002652f976731f8b128a5690a8880603c19f3eb379a80e209ce9cf9788",
        "6730419445519d7f5e10680777e2326bd1694e309326cacbd6f7fc46078a7c02",
        "963d6cc18b9471b9070773a20bbfd7910a1f8523809a0d1bcd5ee912f6694d32",
    ];

    #[test]
    fn a_leaf_is_no_inner_node() {
        let (a, b) = (near(1), near(2));
        assert_ne!(leaf_hash(&a, &b), inner_hash(&a, &b));
    }

    #[test]
    fn a_node_that_nobody_wrote_is_corrupt() {
        let mut certified = Certified::new(MemoryStore::default());
        certified.install(0, [(Path::ROOT.key(), Some(vec![2; 65]))].into());
        assert!(matches!(root(&certified), Err(StoreError::Corrupt { .. })));
    }
}
