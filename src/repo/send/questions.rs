//! What a negotiation asks of history, over object ids.

use std::sync::atomic::AtomicBool;

use gix::{hash::ObjectId, objs::Kind};

use super::{
    DeepenTo, SendError, SendRequest, ShallowPlan, deepen, enumerate,
    marks::Id,
    reach,
    reader::{Reader, peel},
    walk::{IdSet, Walk},
};
use crate::repo::Odb;

/// Decides where the client's history ends after a fetch.
///
/// `tips` are the commits that the client may see, its wants among them: only boundaries that they reach can be moved, so that a client cannot name a hidden commit as
/// its boundary to be sent what is behind it. `repo_shallow` are the commits at which the repository's own history ends: they become
/// boundaries of the client wherever its history would go on.
///
/// # Errors
/// `NoCommitsSelected` when `DeepenTo::RevList` cuts off everything; `Missing` when history is broken.
pub fn plan_deepen(
    odb: &Odb,
    repo_shallow: &[ObjectId],
    wants: &[ObjectId],
    tips: &[ObjectId],
    client_shallow: &[ObjectId],
    to: &DeepenTo,
    stop: &AtomicBool,
) -> Result<ShallowPlan, SendError> {
    let mut reader = Reader::new(odb)?;
    let grafted = existing(&mut reader, repo_shallow)?;
    let grafted: IdSet = grafted.into_iter().collect();
    let heads = commits(&mut reader, wants, true)?;
    let client: Vec<Id> = existing(&mut reader, client_shallow)?;
    // Boundaries behind which the client may look.
    let visible = |reader: &mut Reader<'_>| -> Result<Vec<Id>, SendError> {
        let mut tips = commits(reader, tips, false)?;
        tips.extend(&heads);
        let mut known = Vec::new();
        for id in &client {
            if reader.header(*id)?.0 == Kind::Commit {
                known.push(*id);
            }
        }
        let mut walk = Walk::new(reader, &grafted, stop);
        let hidden: IdSet = reach::unreachable_of(&mut walk, &known, &tips)?.into_iter().collect();
        known.retain(|id| !hidden.contains(id));
        Ok(known)
    };
    let boundary = match to {
        // All of history, where there is all of it: also beneath boundaries that the wants do not reach.
        DeepenTo::Depth(deepen::INFINITE) if grafted.is_empty() => deepen::Boundary {
            shallow: Vec::new(),
            whole: visible(&mut reader)?.into_iter().collect(),
        },
        DeepenTo::Depth(depth) => {
            let mut walk = Walk::new(&mut reader, &grafted, stop);
            deepen::by_depth(&mut walk, &heads, *depth, &grafted)?
        }
        DeepenTo::Relative(depth) => {
            let from = visible(&mut reader)?;
            let mut walk = Walk::new(&mut reader, &grafted, stop);
            deepen::by_depth(
                &mut walk,
                &from,
                depth.saturating_add(1).min(deepen::INFINITE),
                &grafted,
            )?
        }
        DeepenTo::RevList { since, not } => {
            let not = commits(&mut reader, not, false)?;
            let mut walk = Walk::new(&mut reader, &grafted, stop);
            deepen::by_rev_list(&mut walk, &heads, *since, &not, &grafted)?
        }
    };
    let known: IdSet = client.iter().copied().collect();
    let mut plan = ShallowPlan::default();
    for id in &boundary.shallow {
        if !known.contains(id) {
            plan.shallow.push(reader.oid(*id)?);
        }
    }
    let mut said = IdSet::default();
    for id in &client {
        if boundary.whole.contains(id) && said.insert(*id) {
            plan.unshallow.push(reader.oid(*id)?);
        }
    }
    Ok(plan)
}

/// The objects of `targets` that no tip reaches, in the order given; unknown ones among them. What tags point to is reached with them.
///
/// Trees and blobs can be asked about too, at the price of a walk over everything that the tips reach.
pub fn unreachable_of(
    odb: &Odb,
    targets: &[ObjectId],
    tips: &[ObjectId],
    repo_shallow: &[ObjectId],
    stop: &AtomicBool,
) -> Result<Vec<ObjectId>, SendError> {
    let mut reader = Reader::new(odb)?;
    let parentless: IdSet = existing(&mut reader, repo_shallow)?.into_iter().collect();
    let (mut asked, mut others) = (Vec::new(), Vec::new());
    for target in targets {
        match reader.find(target)? {
            Some(id) if reader.header(id)?.0 == Kind::Commit => asked.push(id),
            Some(id) => others.push(id),
            None => {}
        }
    }
    let mut reached = IdSet::default();
    let tip_commits = commits(&mut reader, tips, false)?;
    let hidden: IdSet = {
        let mut walk = Walk::new(&mut reader, &parentless, stop);
        reach::unreachable_of(&mut walk, &asked, &tip_commits)?
            .into_iter()
            .collect()
    };
    reached.extend(asked.into_iter().filter(|id| !hidden.contains(id)));
    if !others.is_empty() {
        let wants: Vec<ObjectId> = tips
            .iter()
            .filter_map(|tip| match odb.contains(tip) {
                Ok(true) => Some(Ok(*tip)),
                Ok(false) => None,
                Err(err) => Some(Err(err)),
            })
            .collect::<Result<_, _>>()?;
        let request = SendRequest {
            wants: &wants,
            ..SendRequest::default()
        };
        let set = enumerate(odb, repo_shallow, &request, &mut |_| (), stop)?;
        for target in targets {
            if set.contains(odb, target)?
                && let Some(id) = reader.find(target)?
            {
                reached.insert(id);
            }
        }
    }
    let mut out = Vec::new();
    for target in targets {
        match reader.find(target)? {
            Some(id) if reached.contains(&id) => {}
            _ => out.push(*target),
        }
    }
    Ok(out)
}

/// Whether a negotiation has found enough: every want has an ancestor (or itself) among what both sides have. Wants that are not commits do not stand in the way;
/// no haves, no end. Kept over a whole negotiation, so that a have costs a lookup and a question costs one walk from the wants.
pub struct CommonGround<'a> {
    reader: Reader<'a>,
    wants: Vec<Id>,
    parentless: IdSet,
    goals: reach::Goals,
}

impl<'a> CommonGround<'a> {
    /// Nothing is known to be common yet. `repo_shallow` are the commits at which history ends.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub fn new(odb: &'a Odb, wants: &[ObjectId], repo_shallow: &[ObjectId]) -> Result<Self, SendError> {
        let mut reader = Reader::new(odb)?;
        let wants = commits(&mut reader, wants, false)?;
        let parentless = existing(&mut reader, repo_shallow)?.into_iter().collect();
        Ok(CommonGround {
            reader,
            wants,
            parentless,
            goals: reach::Goals::default(),
        })
    }

    /// Takes objects that both sides have; what does not lead to a commit says nothing of history.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub fn add(&mut self, common: &[ObjectId], stop: &AtomicBool) -> Result<(), SendError> {
        let common = commits(&mut self.reader, common, false)?;
        let mut walk = Walk::new(&mut self.reader, &self.parentless, stop);
        common.into_iter().try_for_each(|id| self.goals.add(&mut walk, id))
    }

    /// Whether it is enough.
    ///
    /// # Errors
    /// When history is broken, or `stop` was raised.
    pub fn is_enough(&mut self, stop: &AtomicBool) -> Result<bool, SendError> {
        if self.goals.is_empty() {
            return Ok(false);
        }
        let mut walk = Walk::new(&mut self.reader, &self.parentless, stop);
        reach::all_reach_common(&mut walk, &self.wants, &self.goals, stop)
    }
}

/// Whether `ancestor` is `descendant` or an ancestor of it: whether an update from the one to the other is a fast-forward. Both have to be commits; anything else,
/// and what does not exist, is no ancestor.
pub fn is_ancestor(
    odb: &Odb,
    ancestor: &ObjectId,
    descendant: &ObjectId,
    repo_shallow: &[ObjectId],
    stop: &AtomicBool,
) -> Result<bool, SendError> {
    if ancestor == descendant {
        return Ok(true);
    }
    let mut reader = Reader::new(odb)?;
    let mut ids = Vec::with_capacity(2);
    for oid in [ancestor, descendant] {
        match reader.find(oid)? {
            Some(id) if reader.header(id)?.0 == Kind::Commit => ids.push(id),
            _ => return Ok(false),
        }
    }
    let parentless: IdSet = existing(&mut reader, repo_shallow)?.into_iter().collect();
    let mut walk = Walk::new(&mut reader, &parentless, stop);
    reach::is_ancestor(&mut walk, ids[0], ids[1])
}

fn existing(reader: &mut Reader<'_>, oids: &[ObjectId]) -> Result<Vec<Id>, SendError> {
    let mut ids = Vec::new();
    for oid in oids {
        ids.extend(reader.find(oid)?);
    }
    Ok(ids)
}

/// The commits that `oids` are or, being tags, finally point to. With `strict` every one of them has to exist.
fn commits(reader: &mut Reader<'_>, oids: &[ObjectId], strict: bool) -> Result<Vec<Id>, SendError> {
    let mut ids = Vec::with_capacity(oids.len());
    for oid in oids {
        let id = match reader.find(oid)? {
            Some(id) => id,
            None if strict => return Err(SendError::Missing { oid: *oid }),
            None => continue,
        };
        match peel(reader, id) {
            Ok((_, id, Kind::Commit)) => ids.push(id),
            Ok(_) => {}
            Err(SendError::Missing { .. }) if !strict => {}
            Err(err) => return Err(err),
        }
    }
    Ok(ids)
}
