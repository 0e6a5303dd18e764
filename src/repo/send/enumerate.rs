//! What to send: the closure of the wants without that of the haves.

use std::{collections::HashMap, hash::BuildHasherDefault, sync::atomic::AtomicBool};

use gix::{
    hash::{ObjectId, oid},
    objs::Kind,
};

use super::{
    SendError, ShallowPlan,
    by_bitmap::{self, Sides},
    filter::FilterPlan,
    marks::{Id, Marks},
    pairs::{Children, Pair},
    parse::{EntryType, TreeEntry},
    paths,
    reader::{Reader, peel},
    set::{Name, ObjectSet},
    trees::TreeReader,
    walk::{BORING, History, IdHasher, IdMap, IdSet, Walk, check},
};
use crate::repo::{Odb, deltas::PathKey};

/// What a fetch asks for, with every name resolved.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendRequest<'a> {
    /// Objects wanted, of any kind. They are sent whatever the filter says.
    pub wants: &'a [ObjectId],
    /// Objects that both sides have, commits as a rule. Unknown ones are ignored.
    pub haves: &'a [ObjectId],
    /// Where the client's history ends at present. Unknown ids are ignored.
    pub client_shallow: &'a [ObjectId],
    /// How that changes.
    pub plan: Option<&'a ShallowPlan>,
    /// What is left out.
    pub filter: Option<&'a FilterPlan>,
    /// Annotated tags that are sent along when what they finally point to is: tag and target.
    pub include_tag: &'a [(ObjectId, ObjectId)],
    /// Whether deltas may be based on objects that the client has and is not sent.
    pub thin: bool,
}

/// Finds the objects to send, and checks that every one of them exists.
///
/// `repo_shallow` are the commits at which the repository's own history ends. `progress` is told from time to time how many objects were found so far.
///
/// Everything that the wants reach and the haves do not is in the set, whatever dates commits claim. Beyond that the set may hold objects that the client has
/// where telling them apart would cost more than sending them: when commit dates go backwards without a commit-graph, or when content
/// returns that is not in the commits next to the boundary.
///
/// # Errors
/// `Missing` when an object of the closure does not exist and no filter leaves it out.
pub fn enumerate(
    odb: &Odb,
    repo_shallow: &[ObjectId],
    request: &SendRequest<'_>,
    progress: &mut dyn FnMut(u64),
    stop: &AtomicBool,
) -> Result<ObjectSet, SendError> {
    let everything = FilterPlan::default();
    let filter = request.filter.unwrap_or(&everything);
    let mut reader = Reader::new(odb)?;
    let limits = odb.limits();
    let mut trees = TreeReader::new(
        reader.hash(),
        limits.delta_base_cache_bytes,
        limits.object_bytes,
        limits.delta_depth,
    );
    let mut chosen = Chosen::new(&reader, filter, progress, stop);
    chosen.thin = request.thin;

    let mut ends: Vec<Ends> = Vec::with_capacity(request.wants.len());
    for want in request.wants {
        check(stop)?;
        let id = reader.require(want)?;
        ends.push(Ends::of(&mut reader, id)?);
    }
    let mut sides = Sides::default();
    for end in &ends {
        for id in end.tags.iter().chain([&end.id]) {
            chosen.explicit.insert(*id);
        }
        match end.kind {
            Kind::Commit => sides.wants.push(end.id),
            Kind::Tree => sides.wanted_trees.push(end.id),
            _ => {}
        }
    }

    for have in request.haves {
        if let Some(id) = reader.find(have)?
            && let Ok(end) = Ends::of(&mut reader, id)
        {
            for tag in &end.tags {
                chosen.had.insert(*tag);
            }
            match end.kind {
                Kind::Commit => sides.haves.push(end.id),
                Kind::Tree => sides.had_trees.push(end.id),
                _ => {
                    chosen.had.insert(end.id);
                }
            }
        }
    }

    let mut parentless = IdSet::default();
    for oid in repo_shallow {
        parentless.extend(reader.find(oid)?);
    }
    if let Some(plan) = request.plan {
        // The client has these commits and lacks their parents.
        for oid in &plan.unshallow {
            if let Some(id) = reader.find(oid)? {
                let parents = (!parentless.contains(&id)).then_some(&mut sides.wants);
                reader.commit(id, parents)?;
                sides.haves.push(id);
            }
        }
    }
    let cut = request.plan.map(|plan| &plan.shallow[..]).unwrap_or_default();
    for oid in cut.iter().chain(request.client_shallow) {
        parentless.extend(reader.find(oid)?);
    }

    // A small answer is found by comparing both sides, which also tells what is similar; a large one by bitmaps.
    let bitmaps = parentless.is_empty() && request.plan.is_none() && odb.bitmaps().is_some();
    let most = if bitmaps { SMALL_HISTORY } else { usize::MAX };
    let compared = !sides.haves.is_empty() && chosen.history(&mut reader, &mut sides, &parentless, most)?;
    if compared {
        trees.share();
        chosen.trees(&mut reader, &mut trees, sides)?;
    } else if !(bitmaps && by_bitmap::select(&mut chosen, &mut reader, &mut trees, &sides)?) {
        if sides.haves.is_empty() {
            chosen.all_history(&mut reader, &mut sides, &parentless)?;
        } else {
            chosen.history(&mut reader, &mut sides, &parentless, usize::MAX)?;
        }
        chosen.trees(&mut reader, &mut trees, sides)?;
    }

    chosen.chosen.subtract(&chosen.had);
    // Trees and blobs that were asked for by id are wanted even if the client's history reaches them: a partial clone lacks them.
    for end in &ends {
        for tag in &end.tags {
            if !chosen.had.contains(*tag) {
                chosen.chosen.insert(*tag);
            }
        }
        match end.kind {
            Kind::Commit if chosen.had.contains(end.id) => {}
            _ => {
                chosen.chosen.insert(end.id);
            }
        }
    }
    for (tag, target) in request.include_tag {
        let Some(target) = reader.find(target)? else { continue };
        if !chosen.chosen.contains(target) {
            continue;
        }
        let id = reader.require(tag)?;
        for tag in Ends::of(&mut reader, id)?.tags {
            if !chosen.had.contains(tag) {
                chosen.chosen.insert(tag);
            }
        }
    }
    let Chosen {
        chosen,
        had,
        similar,
        names,
        ..
    } = chosen;
    ObjectSet::new(reader, chosen, had, request.filter.cloned(), similar, names)
}

/// A want or a have, followed through tags.
struct Ends {
    tags: Vec<Id>,
    id: Id,
    kind: Kind,
}

impl Ends {
    fn of(reader: &mut Reader<'_>, id: Id) -> Result<Ends, SendError> {
        let (tags, id, kind) = peel(reader, id)?;
        Ok(Ends { tags, id, kind })
    }
}

/// Passes over trees, see [`ReadTree::news`](super::trees::ReadTree::news).
pub(super) const INTERESTING: u8 = 1;
const CHILDREN_HAD: u8 = 2;
pub(super) const ALL_HAD: u8 = 3;

/// The set in the making.
pub(super) struct Chosen<'a> {
    pub(super) filter: &'a FilterPlan,
    pub(super) chosen: Marks,
    /// Objects the client has.
    pub(super) had: Marks,
    /// Trees that were entered or are about to be.
    entered: Marks,
    /// Blobs that the filter leaves out for their size.
    too_large: Marks,
    explicit: IdSet,
    count: u64,
    /// Whether it is worth knowing what is similar.
    thin: bool,
    /// See [`ObjectSet`].
    similar: IdMap<Id>,
    /// See [`ObjectSet`].
    names: IdMap<Name>,
    /// What was chosen since the trees began to be compared, while it is little.
    few: Option<Vec<Id>>,
    steps: u32,
    progress: &'a mut dyn FnMut(u64),
    stop: &'a AtomicBool,
}

impl<'a> Chosen<'a> {
    fn new(
        reader: &Reader<'_>,
        filter: &'a FilterPlan,
        progress: &'a mut dyn FnMut(u64),
        stop: &'a AtomicBool,
    ) -> Self {
        Chosen {
            filter,
            chosen: Marks::for_all(&reader.numbering),
            had: Marks::for_all(&reader.numbering),
            entered: Marks::for_all(&reader.numbering),
            too_large: Marks::default(),
            explicit: IdSet::default(),
            count: 0,
            thin: false,
            similar: IdMap::default(),
            names: IdMap::default(),
            few: None,
            steps: 0,
            progress,
            stop,
        }
    }

    /// Called once for every object that is read.
    pub(super) fn step(&mut self) -> Result<(), SendError> {
        self.steps = self.steps.wrapping_add(1);
        if self.steps.is_multiple_of(1024) {
            check(self.stop)?;
            (self.progress)(self.count);
        }
        Ok(())
    }

    pub(super) fn choose(&mut self, id: Id) {
        if self.chosen.insert(id) {
            self.count += 1;
            match &mut self.few {
                Some(few) if few.len() < FEW => few.push(id),
                few => *few = None,
            }
        }
    }

    /// Takes note of where an object stands, if objects of several packs, or loose ones, may have to be compared. The first place counts.
    fn name(&mut self, reader: &Reader<'_>, id: Id, key: PathKey) {
        if !reader.is_one_pack() && self.names.len() < MOST_NAMES {
            let met = self.names.len() as u32;
            self.names.entry(id).or_insert(Name { key, met });
        }
    }

    /// Where the tree stands whose entries are looked at.
    fn key_of(&self, tree: Id) -> PathKey {
        self.names.get(&tree).map_or_else(PathKey::default, |name| name.key)
    }

    /// Counts objects that are chosen in other ways.
    pub(super) fn count(&mut self, more: u64) {
        self.count += more;
    }

    fn choose_commit(&mut self, id: Id) {
        if self.filter.commits || self.explicit.contains(&id) {
            self.choose(id);
        }
    }

    /// All commits that `tips` reach, without anything that would be had: no order is needed, so none is kept.
    fn all_history(&mut self, reader: &mut Reader<'_>, sides: &mut Sides, parentless: &IdSet) -> Result<(), SendError> {
        let enters_trees = self.filter.enters_trees();
        let mut met = Marks::for_all(&reader.numbering);
        let mut stack = Vec::new();
        for tip in &sides.wants {
            if met.insert(*tip) {
                stack.push(*tip);
            }
        }
        let mut parents = Vec::new();
        while let Some(id) = stack.pop() {
            self.step()?;
            parents.clear();
            let cut = parentless.contains(&id);
            let meta = reader.commit(id, (!cut).then_some(&mut parents))?;
            self.choose_commit(id);
            if enters_trees {
                sides.wanted_trees.push(reader.require(&meta.tree)?);
            }
            stack.extend(parents.iter().copied().filter(|parent| met.insert(*parent)));
        }
        Ok(())
    }

    /// The commits that are wanted and not had, their trees, and of those that are had the trees next to the boundary and of the tips. Says no, and changes
    /// nothing, when more commits than `most` would have to be read.
    fn history(
        &mut self,
        reader: &mut Reader<'_>,
        sides: &mut Sides,
        parentless: &IdSet,
        most: usize,
    ) -> Result<bool, SendError> {
        let enters_trees = self.filter.enters_trees();
        let mut walk = Walk::new(reader, parentless, self.stop);
        let Some(found) = walk.limit_within(most, &sides.wants, &sides.haves, None)? else {
            return Ok(false);
        };
        let (roots, had_roots) = (&mut sides.wanted_trees, &mut sides.had_trees);
        let trees: Vec<ObjectId> = found.interesting.iter().map(|at| walk.node(*at).tree).collect();
        for at in &found.interesting {
            self.choose_commit(walk.node(*at).id);
        }
        let mut had_trees: Vec<ObjectId> = found.edges.iter().map(|at| walk.node(*at).tree).collect();
        // The tips are where a client's newest content is: what was picked or reverted from there need not be sent.
        let near = sides.haves.iter().take(MAX_BORING_TIPS).filter_map(|id| walk.find(*id));
        had_trees.extend(near.map(|at| walk.node(at).tree));
        for node in walk.nodes() {
            if node.flags & BORING != 0 {
                self.had.insert(node.id);
            }
        }
        if enters_trees && !found.interesting.is_empty() {
            for tree in trees {
                roots.push(reader.require(&tree)?);
            }
        }
        if enters_trees && !(found.interesting.is_empty() && roots.is_empty()) {
            for tree in had_trees {
                had_roots.extend(reader.find(&tree)?);
            }
            had_roots.sort_unstable();
            had_roots.dedup();
        }
        Ok(true)
    }

    /// The trees and blobs beneath what is wanted, without what is known to be beneath what is had.
    fn trees(&mut self, reader: &mut Reader<'_>, trees: &mut TreeReader, sides: Sides) -> Result<(), SendError> {
        let (roots, had_roots) = (sides.wanted_trees, sides.had_trees);
        if !self.filter.enters_trees() || roots.is_empty() {
            return Ok(());
        }
        if self.filter.needs_paths() {
            self.mark_had(reader, trees, &had_roots, PATHS_BUDGET)?;
            return paths::walk(self, reader, trees, roots);
        }
        if had_roots.is_empty() {
            return self.levels(reader, trees, roots);
        }
        let before = self.count;
        self.few = Some(Vec::new());
        self.compare(reader, trees, &had_roots, roots)?;
        // What is left may still be beneath the boundary at another path: look for it, as long as that costs less than sending it.
        let found = self.count - before;
        match self.few.take() {
            _ if found == 0 => Ok(()),
            Some(few) => {
                let budget = MARK_BUDGET_FEW + found + packed_bytes(reader, &few)? / BYTES_FOR_A_TREE;
                let asked = Asked::about(reader, &few)?;
                self.beneath(reader, trees, &had_roots, budget, |chosen, reader, entry| {
                    asked.answer(entry.id, &mut chosen.had);
                    // Most entries are blobs, and what is asked about is known: so they need not be looked up.
                    match entry.kind {
                        EntryType::Tree => reader.find(entry.id),
                        _ => Ok(None),
                    }
                })
            }
            None => self.mark_had(reader, trees, &had_roots, MARK_BUDGET + 4 * found),
        }
    }

    /// Enters trees level by level, each once. Within a level trees are taken in the order in which they lie in their packs: bases before the deltas made from
    /// them, neighbours after each other.
    fn levels(&mut self, reader: &mut Reader<'_>, trees: &mut TreeReader, roots: Vec<Id>) -> Result<(), SendError> {
        let max_depth = self.filter.depth.unwrap_or(u64::MAX);
        let mut level: Vec<Id> = roots.into_iter().filter(|id| self.enter(*id)).collect();
        for id in &level {
            self.name(reader, *id, PathKey::default());
        }
        let mut depth = 1u64;
        while !level.is_empty() {
            let mut next = Vec::new();
            for id in in_pack_order(reader, &level)? {
                self.step()?;
                let tree = trees.read(reader, id)?;
                let here = self.key_of(id);
                tree.news(INTERESTING, |entry| {
                    if depth >= max_depth {
                        return Ok(());
                    }
                    match entry.kind {
                        EntryType::Gitlink => {}
                        EntryType::Blob => {
                            if let Some(id) = self.admit_blob(reader, entry.id)? {
                                self.name(reader, id, here.child(entry.name));
                            }
                        }
                        EntryType::Tree => {
                            let id = reader.require(entry.id)?;
                            if self.enter(id) {
                                self.name(reader, id, here.child(entry.name));
                                next.push(id);
                            }
                        }
                    }
                    Ok::<_, SendError>(())
                })?;
            }
            level = next;
            depth += 1;
        }
        Ok(())
    }

    /// Takes note of a tree; whether it has to be read.
    fn enter(&mut self, id: Id) -> bool {
        if self.had.contains(id) || !self.entered.insert(id) {
            return false;
        }
        self.choose_tree(id);
        true
    }

    pub(super) fn choose_tree(&mut self, id: Id) {
        if self.filter.trees || self.explicit.contains(&id) {
            self.choose(id);
        }
    }

    /// Chooses a blob unless the filter leaves it out; says which it is if it is new.
    pub(super) fn admit_blob(&mut self, reader: &mut Reader<'_>, oid: &oid) -> Result<Option<Id>, SendError> {
        if !self.filter.blobs {
            return Ok(None);
        }
        let id = reader.require(oid)?;
        if self.chosen.contains(id) || self.had.contains(id) {
            return Ok(None);
        }
        if let Some(limit) = self.filter.blob_limit
            && (self.too_large.contains(id) || reader.header(id)?.1 >= limit)
        {
            self.too_large.insert(id);
            return Ok(None);
        }
        self.choose(id);
        Ok(Some(id))
    }

    /// Walks both sides' trees together, path by path, going down only where the wanted side has a tree that the other has not: the cost follows the
    /// difference, not the size of the trees.
    fn compare(
        &mut self,
        reader: &mut Reader<'_>,
        trees: &mut TreeReader,
        had_roots: &[Id],
        roots: Vec<Id>,
    ) -> Result<(), SendError> {
        let max_depth = self.filter.depth.unwrap_or(u64::MAX);
        let mut level = vec![Pair {
            key: PathKey::default(),
            had: had_roots.to_vec(),
            wanted: roots,
        }];
        let mut depth = 1u64;
        while !level.is_empty() {
            for pair in &level {
                for id in &pair.had {
                    self.had.insert(*id);
                }
            }
            let mut next = Vec::new();
            for mut pair in level {
                pair.wanted.retain(|id| self.enter(*id));
                if pair.wanted.is_empty() {
                    continue;
                }
                self.compare_at(reader, trees, pair, depth < max_depth, &mut next)?;
            }
            level = next;
            depth += 1;
        }
        Ok(())
    }

    fn compare_at(
        &mut self,
        reader: &mut Reader<'_>,
        trees: &mut TreeReader,
        mut pair: Pair,
        within_depth: bool,
        next: &mut Vec<Pair>,
    ) -> Result<(), SendError> {
        let mut children: Children = Children::default();
        pair.had.sort_unstable();
        pair.had.dedup();
        for id in in_pack_order(reader, &pair.had)? {
            self.step()?;
            let tree = match trees.read(reader, id) {
                Ok(tree) => tree,
                // The client has it; that we have not is no reason to refuse.
                Err(SendError::Missing { .. }) => continue,
                Err(err) => return Err(err),
            };
            tree.all(|entry| {
                if entry.kind == EntryType::Gitlink {
                    return Ok(());
                }
                let Some(id) = reader.find(entry.id)? else {
                    return Ok(());
                };
                self.had.insert(id);
                if entry.kind == EntryType::Tree {
                    children.entry(pair.key, entry.name).had.push(id);
                }
                Ok::<_, SendError>(())
            })?;
            tree.mark_dealt_with(CHILDREN_HAD);
        }
        // Blobs by name: what the client has under the same one differs little as a rule.
        let mut admitted: HashMap<Vec<u8>, Vec<Id>> = HashMap::new();
        for id in in_pack_order(reader, &pair.wanted)? {
            self.step()?;
            if let Some(had) = pair.had.first().filter(|_| self.thin) {
                self.similar.insert(id, *had);
            }
            self.name(reader, id, pair.key);
            let tree = trees.read(reader, id)?;
            tree.news(INTERESTING, |entry| {
                if !within_depth {
                    return Ok(());
                }
                match entry.kind {
                    EntryType::Gitlink => {}
                    EntryType::Blob => {
                        if let Some(id) = self.admit_blob(reader, entry.id)? {
                            self.name(reader, id, pair.key.child(entry.name));
                            if self.thin {
                                admitted.entry(entry.name.to_vec()).or_default().push(id);
                            }
                        }
                    }
                    EntryType::Tree => {
                        let id = reader.require(entry.id)?;
                        if !self.had.contains(id) && !self.entered.contains(id) {
                            children.entry(pair.key, entry.name).wanted.push(id);
                        }
                    }
                }
                Ok::<_, SendError>(())
            })?;
        }
        next.extend(children.pairs.into_iter().filter(|pair| !pair.wanted.is_empty()));
        self.find_similar(reader, trees, &pair.had, admitted)
    }

    /// Notes for each blob one that the client has under the same name.
    fn find_similar(
        &mut self,
        reader: &mut Reader<'_>,
        trees: &mut TreeReader,
        had: &[Id],
        mut admitted: HashMap<Vec<u8>, Vec<Id>>,
    ) -> Result<(), SendError> {
        for id in had {
            if admitted.is_empty() {
                return Ok(());
            }
            let tree = match trees.read(reader, *id) {
                Ok(tree) => tree,
                Err(SendError::Missing { .. }) => continue,
                Err(err) => return Err(err),
            };
            tree.all(|entry| {
                if entry.kind == EntryType::Blob
                    && let Some(wanted) = admitted.remove(entry.name)
                    && let Some(base) = reader.find(entry.id)?
                {
                    self.similar.extend(wanted.into_iter().map(|id| (id, base)));
                }
                Ok::<_, SendError>(())
            })?;
        }
        Ok(())
    }

    /// Marks everything beneath `roots` as had, reading at most `budget` trees. Marking only a part is never wrong.
    fn mark_had(
        &mut self,
        reader: &mut Reader<'_>,
        trees: &mut TreeReader,
        roots: &[Id],
        budget: u64,
    ) -> Result<(), SendError> {
        self.beneath(reader, trees, roots, budget, |chosen, reader, entry| {
            if entry.kind == EntryType::Gitlink {
                return Ok(None);
            }
            let id = reader.find(entry.id)?;
            if let Some(id) = id {
                chosen.had.insert(id);
            }
            Ok(id)
        })
    }

    /// Goes through what is beneath `roots` on the client's side, reading at most `budget` trees. `visit` says the number of an entry that is a tree.
    fn beneath(
        &mut self,
        reader: &mut Reader<'_>,
        trees: &mut TreeReader,
        roots: &[Id],
        mut budget: u64,
        mut visit: impl FnMut(&mut Self, &mut Reader<'_>, &TreeEntry<'_>) -> Result<Option<Id>, SendError>,
    ) -> Result<(), SendError> {
        let mut queued = Marks::default();
        let mut level: Vec<Id> = roots.iter().copied().filter(|id| queued.insert(*id)).collect();
        while !level.is_empty() {
            let mut next = Vec::new();
            for id in in_pack_order(reader, &level)? {
                if budget == 0 {
                    return Ok(());
                }
                budget -= 1;
                self.step()?;
                self.had.insert(id);
                let tree = match trees.read(reader, id) {
                    Ok(tree) => tree,
                    Err(SendError::Missing { .. }) => continue,
                    Err(err) => return Err(err),
                };
                tree.news(ALL_HAD, |entry| {
                    if let Some(id) = visit(self, reader, &entry)?
                        && entry.kind == EntryType::Tree
                        && queued.insert(id)
                    {
                        next.push(id);
                    }
                    Ok::<_, SendError>(())
                })?;
            }
            level = next;
        }
        Ok(())
    }
}

/// Commits that are read to find out whether an answer is small, where bitmaps could find it.
const SMALL_HISTORY: usize = 256;

/// Objects of which it is to be found out whether the client has them: the few that are to be sent, and what they are deltas of.
struct Asked {
    /// By the first bytes of their ids.
    ids: HashMap<u64, Vec<(ObjectId, Id)>, BuildHasherDefault<IdHasher>>,
}

impl Asked {
    fn about(reader: &mut Reader<'_>, few: &[Id]) -> Result<Self, SendError> {
        let mut asked = Asked {
            ids: HashMap::default(),
        };
        for id in few {
            for id in [Some(*id), reader.delta_base(*id)?].into_iter().flatten() {
                let oid = reader.oid(id)?;
                asked.ids.entry(Self::key(&oid)).or_default().push((oid, id));
            }
        }
        Ok(asked)
    }

    fn key(oid: &oid) -> u64 {
        let first = oid
            .as_bytes()
            .first_chunk()
            .expect("because ids are longer than eight bytes");
        u64::from_ne_bytes(*first)
    }

    fn answer(&self, oid: &oid, had: &mut Marks) {
        for (asked, id) in self.ids.get(&Self::key(oid)).into_iter().flatten() {
            if **asked == *oid {
                had.insert(*id);
            }
        }
    }
}

/// Objects whose names are kept: beyond that they are sent as they are.
const MOST_NAMES: usize = 2_000_000;
/// Boring tips whose trees are looked at beside those of the boundary.
const MAX_BORING_TIPS: usize = 64;
/// Trees read in search of content that moved, whatever the size of the answer.
const MARK_BUDGET: u64 = 256;
/// Answers of at most so many objects are weighed: a small fetch must not cost what a large one does.
const FEW: usize = 256;
/// Trees read for an answer of few objects, beside one for each object and for each [`BYTES_FOR_A_TREE`].
const MARK_BUDGET_FEW: u64 = 8;
/// Bytes that take about as long to send as a tree takes to read.
const BYTES_FOR_A_TREE: u64 = 1 << 10;
/// The same where paths matter and the two sides are not compared path by path.
const PATHS_BUDGET: u64 = 20_000;

/// Sorts objects by where they lie, the loose ones last.
pub(super) fn in_pack_order(reader: &Reader<'_>, ids: &[Id]) -> Result<Vec<Id>, SendError> {
    let mut placed = Vec::with_capacity(ids.len());
    for id in ids {
        placed.push((reader.offset(*id)?.unwrap_or((u32::MAX, u64::MAX)), *id));
    }
    placed.sort_unstable();
    Ok(placed.into_iter().map(|(_, id)| id).collect())
}

/// Bytes that these objects take in their packs. Loose ones count as if they were some.
fn packed_bytes(reader: &Reader<'_>, ids: &[Id]) -> Result<u64, SendError> {
    let mut bytes = 0;
    for id in ids {
        bytes += reader.packed_size(*id)?.unwrap_or(BYTES_FOR_A_TREE);
    }
    Ok(bytes)
}
