//! Questions about who reaches whom, asked over commits already known to exist.

use std::sync::atomic::AtomicBool;

use super::{
    SendError,
    marks::Id,
    walk::{BORING, DONE, History, IdSet, Queue, SEEN, UNKNOWN_GENERATION, Walk, check},
};

/// Whether `ancestor` is `descendant` or one of its ancestors.
///
/// Paints downwards from both until the ancestor is met or everything left is reached from both: a commit on a path from the descendant to the ancestor
/// cannot be reached from the ancestor, so while such a path may exist there is a commit in the queue that only the descendant reaches. Dates order
/// the walk but decide nothing.
pub(super) fn is_ancestor<H: History>(walk: &mut Walk<'_, H>, ancestor: Id, descendant: Id) -> Result<bool, SendError> {
    if ancestor == descendant {
        return Ok(true);
    }
    let mut queue = Queue::default();
    let target = walk.load(ancestor, true)?;
    let from = walk.load(descendant, true)?;
    // BORING: reached from the ancestor. SEEN: reached from the descendant. `open` counts queued nodes that only the descendant reaches.
    walk.node_mut(target).flags |= BORING;
    walk.node_mut(from).flags |= SEEN;
    queue.push(target, walk.node(target));
    queue.push(from, walk.node(from));
    let floor = walk.node(target).generation;
    let mut open = 1usize;
    let mut queued = IdSet::default();
    queued.insert(ancestor);
    queued.insert(descendant);
    while open > 0 {
        let Some(at) = queue.pop() else { break };
        let node = *walk.node(at);
        queued.remove(&node.id);
        if node.flags & BORING == 0 {
            open -= 1;
            // Nothing of a lower generation than the target's reaches it.
            if floor != UNKNOWN_GENERATION && node.generation <= floor {
                continue;
            }
        }
        for nth in 0..walk.parent_count(at) {
            let id = walk.parent(at, nth);
            let parent = walk.load(id, true)?;
            if parent == target && node.flags & SEEN != 0 {
                return Ok(true);
            }
            let flags = walk.node(parent).flags;
            let new = flags | (node.flags & (SEEN | BORING));
            if new == flags {
                continue;
            }
            walk.node_mut(parent).flags = new;
            let only_descendant = |flags: u8| flags & (SEEN | BORING) == SEEN;
            if queued.insert(id) {
                queue.push(parent, walk.node(parent));
                open += usize::from(only_descendant(new));
            } else {
                open -= usize::from(only_descendant(flags) && !only_descendant(new));
                open += usize::from(only_descendant(new) && !only_descendant(flags));
            }
        }
    }
    Ok(false)
}

/// The commits of `targets` that no tip reaches, in the order given.
pub(super) fn unreachable_of<H: History>(
    walk: &mut Walk<'_, H>,
    targets: &[Id],
    tips: &[Id],
) -> Result<Vec<Id>, SendError> {
    let mut missing: IdSet = targets.iter().copied().collect();
    // Nothing below the lowest target can reach any target.
    let mut floor = UNKNOWN_GENERATION;
    for target in targets {
        let at = walk.load(*target, true)?;
        floor = floor.min(walk.node(at).generation);
    }
    let mut queue = Queue::default();
    for tip in tips {
        missing.remove(tip);
        let at = walk.load(*tip, true)?;
        if walk.node(at).flags & SEEN == 0 {
            walk.node_mut(at).flags |= SEEN;
            queue.push(at, walk.node(at));
        }
    }
    while !missing.is_empty() {
        let Some(at) = queue.pop() else { break };
        if floor != UNKNOWN_GENERATION && walk.node(at).generation <= floor {
            continue;
        }
        for nth in 0..walk.parent_count(at) {
            let id = walk.parent(at, nth);
            let parent = walk.load(id, true)?;
            if walk.node(parent).flags & SEEN == 0 {
                walk.node_mut(parent).flags |= SEEN;
                missing.remove(&id);
                queue.push(parent, walk.node(parent));
            }
        }
    }
    Ok(targets.iter().copied().filter(|id| missing.contains(id)).collect())
}

/// Commits that both sides have, and how far back a walk that looks for them must go.
pub(super) struct Goals {
    ids: IdSet,
    oldest: i64,
    lowest: u32,
}

impl Default for Goals {
    fn default() -> Self {
        Goals {
            ids: IdSet::default(),
            oldest: i64::MAX,
            lowest: UNKNOWN_GENERATION,
        }
    }
}

impl Goals {
    pub(super) fn add<H: History>(&mut self, walk: &mut Walk<'_, H>, id: Id) -> Result<(), SendError> {
        if self.ids.insert(id) {
            let at = walk.load(id, true)?;
            self.oldest = self.oldest.min(walk.node(at).date);
            self.lowest = self.lowest.min(walk.node(at).generation);
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Whether every commit of `wants` has a commit of `goals` among itself and its ancestors, looking no further back than the oldest of them.
///
/// Only decides when a negotiation may end, so a date that lies costs a round and nothing else.
pub(super) fn all_reach_common<H: History>(
    walk: &mut Walk<'_, H>,
    wants: &[Id],
    goals: &Goals,
    stop: &AtomicBool,
) -> Result<bool, SendError> {
    let (oldest, lowest) = (goals.oldest, goals.lowest);
    // DONE: reaches a goal. SEEN: looked at, and if not DONE when its turn is over, reaches none.
    for want in wants {
        check(stop)?;
        let mut stack = vec![(walk.load(*want, true)?, 0u32)];
        while let Some((at, nth)) = stack.last_mut() {
            let node = *walk.node(*at);
            let found = node.flags & DONE != 0 || goals.ids.contains(&node.id);
            if found {
                for (at, _) in stack.drain(..) {
                    walk.node_mut(at).flags |= SEEN | DONE;
                }
                break;
            }
            walk.node_mut(*at).flags |= SEEN;
            let too_old = node.date < oldest || (lowest != UNKNOWN_GENERATION && node.generation < lowest);
            if too_old || *nth >= walk.parent_count(*at) {
                stack.pop();
                continue;
            }
            let parent = walk.parent(*at, *nth);
            *nth += 1;
            let parent = walk.load(parent, true)?;
            let flags = walk.node(parent).flags;
            if flags & SEEN == 0 || flags & DONE != 0 {
                stack.push((parent, 0));
            }
        }
        let at = walk.load(*want, true)?;
        if walk.node(at).flags & DONE == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::send::walk::tests::{Fake, histories, ids};
    use proptest::prelude::*;

    fn with<T>(fake: &mut Fake, f: impl FnOnce(&mut Walk<'_, Fake>, &AtomicBool) -> Result<T, SendError>) -> T {
        let (stop, none) = (AtomicBool::new(false), IdSet::default());
        let mut walk = Walk::new(fake, &none, &stop);
        f(&mut walk, &stop).unwrap()
    }

    proptest! {
        #[test]
        fn ancestry_is_exact_whatever_the_dates_say(mut fake in histories(500), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), graph in any::<prop::sample::Index>()) {
            let n = fake.commits.len();
            fake.graphed = graph.index(n + 1) as u32;
            let (a, b) = (a.index(n) as u32, b.index(n) as u32);
            let expected = fake.closure(&[b], &[]).contains(&a);
            prop_assert_eq!(with(&mut fake, |walk, _| is_ancestor(walk, Id(a), Id(b))), expected);
        }

        #[test]
        fn reachability_is_exact_whatever_the_dates_say(mut fake in histories(500), targets in proptest::collection::vec(any::<prop::sample::Index>(), 0..6), tips in proptest::collection::vec(any::<prop::sample::Index>(), 0..3), graph in any::<prop::sample::Index>()) {
            let n = fake.commits.len();
            fake.graphed = graph.index(n + 1) as u32;
            let pick = |list: &[prop::sample::Index]| list.iter().map(|i| i.index(n) as u32).collect::<Vec<_>>();
            let (targets, tips) = (pick(&targets), pick(&tips));
            let reached = fake.closure(&tips, &[]);
            let expected: Vec<_> = targets.iter().filter(|t| !reached.contains(t)).map(|t| Id(*t)).collect();
            prop_assert_eq!(with(&mut fake, |walk, _| unreachable_of(walk, &ids(&targets), &ids(&tips))), expected);
        }

        #[test]
        fn giving_up_needs_a_common_ancestor_of_every_want(mut fake in histories(0), wants in proptest::collection::vec(any::<prop::sample::Index>(), 1..5), common in proptest::collection::vec(any::<prop::sample::Index>(), 1..5), graph in any::<prop::sample::Index>()) {
            let n = fake.commits.len();
            fake.graphed = graph.index(n + 1) as u32;
            let pick = |list: &[prop::sample::Index]| list.iter().map(|i| i.index(n) as u32).collect::<Vec<_>>();
            let (wants, common) = (pick(&wants), pick(&common));
            let expected = wants.iter().all(|w| fake.closure(&[*w], &[]).iter().any(|n| common.contains(n)));
            let got = with(&mut fake, |walk, stop| {
                let mut goals = Goals::default();
                for id in ids(&common) {
                    goals.add(walk, id)?;
                }
                all_reach_common(walk, &ids(&wants), &goals, stop)
            });
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_fast_forward_of_one_commit_reads_few_commits() {
        let commits = (0..10_000u32)
            .map(|n| (n.checked_sub(1).into_iter().collect(), i64::from(n)))
            .collect();
        let mut fake = Fake {
            commits,
            ..Fake::default()
        };
        assert!(with(&mut fake, |walk, _| is_ancestor(walk, Id(9_998), Id(9_999))));
        assert!(!with(&mut fake, |walk, _| is_ancestor(walk, Id(9_999), Id(9_998))));
        assert!(fake.loads < 20, "{} commits were read", fake.loads);
    }
}
