use gix::{
    hash::{Kind as HashKind, ObjectId},
    objs::Kind,
};

use super::ids::{IdMap, IdSet};

/// Distinct ids that are remembered before we give up and leave the proof to a walk: about 45 bytes each.
const MOST: usize = 6 << 20;
/// Slots of the small table that keeps most repetitions away from the large one.
const RECENT: usize = 1 << 13;

/// What the objects of a pack refer to. A pack in which every reference is answered by the pack itself is closed: whatever of it is a tip, is whole.
pub(super) struct Links {
    hash: HashKind,
    wanted: IdMap<Kind>,
    recent: Vec<Option<(ObjectId, Kind)>>,
    /// References that we did not understand or could not remember: no proof comes from here.
    unsure: bool,
}

impl Links {
    pub(super) fn new(hash: HashKind) -> Self {
        Links {
            hash,
            wanted: IdMap::default(),
            recent: Vec::new(),
            unsure: false,
        }
    }

    /// Records what one object refers to. `shallow` commits have no parents.
    pub(super) fn object(&mut self, kind: Kind, id: &ObjectId, data: &[u8], shallow: &IdSet) {
        if self.unsure || kind == Kind::Blob {
            return;
        }
        let understood = match kind {
            Kind::Blob => true,
            Kind::Tree => self.tree(data).is_some(),
            Kind::Commit => self.commit(data, shallow.contains(id)).is_some(),
            Kind::Tag => self.tag(data).is_some(),
        };
        if !understood || self.wanted.len() > MOST {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.unsure = true;
        self.wanted = IdMap::default();
        self.recent = Vec::new();
    }

    fn refer(&mut self, id: ObjectId, kind: Kind) -> Option<()> {
        if self.recent.is_empty() {
            self.recent = vec![None; RECENT];
        }
        let raw = id.as_slice();
        let slot = (usize::from(raw[0]) << 8 | usize::from(raw[1])) % RECENT;
        if self.recent[slot] == Some((id, kind)) {
            return Some(());
        }
        self.recent[slot] = Some((id, kind));
        // An id that is asked for as two kinds cannot be answered.
        (*self.wanted.entry(id).or_insert(kind) == kind).then_some(())
    }

    fn tree(&mut self, mut data: &[u8]) -> Option<()> {
        let raw = self.hash.len_in_bytes();
        while !data.is_empty() {
            let space = data.iter().take(8).position(|b| *b == b' ')?;
            let mode = &data[..space];
            let nul = space + 1 + data[space + 1..].iter().position(|b| *b == 0)?;
            let id = data.get(nul + 1..nul + 1 + raw)?;
            data = &data[nul + 1 + raw..];
            match file_type(mode)? {
                0o040000 => self.refer(ObjectId::from_bytes_or_panic(id), Kind::Tree)?,
                0o160000 => {}
                _ => self.refer(ObjectId::from_bytes_or_panic(id), Kind::Blob)?,
            }
        }
        Some(())
    }

    fn commit(&mut self, data: &[u8], shallow: bool) -> Option<()> {
        let mut lines = data.split(|b| *b == b'\n');
        let tree = lines.next()?.strip_prefix(b"tree ")?;
        self.refer(self.hex(tree)?, Kind::Tree)?;
        for line in lines {
            match line.strip_prefix(b"parent ") {
                Some(parent) if !shallow => self.refer(self.hex(parent)?, Kind::Commit)?,
                Some(_) => {}
                None => return Some(()),
            }
        }
        Some(())
    }

    fn tag(&mut self, data: &[u8]) -> Option<()> {
        let mut lines = data.split(|b| *b == b'\n');
        let object = self.hex(lines.next()?.strip_prefix(b"object ")?)?;
        let kind = Kind::from_bytes(lines.next()?.strip_prefix(b"type ")?).ok()?;
        self.refer(object, kind)
    }

    fn hex(&self, text: &[u8]) -> Option<ObjectId> {
        ObjectId::from_hex(text).ok().filter(|id| id.kind() == self.hash)
    }

    /// Whether `kind_of` answers everything that was referred to.
    pub(super) fn closed(all: &[Links], kind_of: impl Fn(&ObjectId) -> Option<Kind>) -> bool {
        all.iter()
            .all(|links| !links.unsure && links.wanted.iter().all(|(id, kind)| kind_of(id) == Some(*kind)))
    }
}

/// The file type bits of an octal mode.
fn file_type(mode: &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for byte in mode {
        value = (value << 3) | u32::from(byte.checked_sub(b'0').filter(|d| *d < 8)?);
    }
    Some(value & 0o170000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ObjectId {
        ObjectId::from([n; 20])
    }

    #[test]
    fn references_are_collected_with_their_kinds() {
        let mut links = Links::new(HashKind::Sha1);
        let mut tree = b"40000 dir\0".to_vec();
        tree.extend([1; 20]);
        tree.extend(b"100644 file\0");
        tree.extend([2; 20]);
        tree.extend(b"160000 module\0");
        tree.extend([3; 20]);
        links.object(Kind::Tree, &id(9), &tree, &IdSet::default());
        let commit = format!("tree {}\nparent {}\nauthor x\n\nparent {}\n", id(9), id(4), id(5));
        links.object(Kind::Commit, &id(10), commit.as_bytes(), &IdSet::default());
        let mut found: Vec<_> = links.wanted.iter().map(|(id, kind)| (*id, *kind)).collect();
        found.sort();
        assert_eq!(
            found,
            [
                (id(1), Kind::Tree),
                (id(2), Kind::Blob),
                (id(4), Kind::Commit),
                (id(9), Kind::Tree)
            ]
        );
        assert!(!links.unsure);
    }

    #[test]
    fn a_shallow_commit_refers_to_no_parent() {
        let mut links = Links::new(HashKind::Sha1);
        let shallow: IdSet = [id(10)].into_iter().collect();
        let commit = format!("tree {}\nparent {}\n", id(9), id(4));
        links.object(Kind::Commit, &id(10), commit.as_bytes(), &shallow);
        assert_eq!(links.wanted.len(), 1);
    }

    #[test]
    fn what_is_not_understood_proves_nothing() {
        for bad in ["", "tree", "tree 12\n", "100644"] {
            let mut links = Links::new(HashKind::Sha1);
            links.object(Kind::Commit, &id(1), bad.as_bytes(), &IdSet::default());
            assert!(!Links::closed(&[links], |_| Some(Kind::Tree)), "{bad}");
        }
        let mut links = Links::new(HashKind::Sha1);
        let tag = |kind: &str| format!("object {}\ntype {kind}\n", id(3));
        links.object(Kind::Tag, &id(1), tag("commit").as_bytes(), &IdSet::default());
        links.object(Kind::Tag, &id(2), tag("tree").as_bytes(), &IdSet::default());
        assert!(links.unsure);
    }
}
