//! The refs at one moment: what they hold, told apart from any other moment at little cost, and listed.

use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};
use gix::hash::{ObjectId, oid};

use super::{
    loose::Raw,
    names::{self, Prefixes},
    packed::{Packed, Peeling, Signature},
    store::{RefStore, Resolved},
    types::{Ref, RefObjects, RefQuery, RefTarget, RefsError},
};

/// The refs that a query asks for, as they were at one moment. Objects have not been looked at yet.
pub struct RefsMoment<'a> {
    store: &'a RefStore,
    query: &'a RefQuery,
    namespace: BString,
    wanted: Prefixes,
    /// Sorted by name.
    loose: Vec<(BString, Loose)>,
    packed: Arc<Packed>,
}

/// What a loose ref came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Loose {
    Id(ObjectId),
    /// A symbolic one, and where its chain ends.
    Symbolic(Resolved),
    /// A chain that is too long, or ends in something broken.
    Endless,
    Broken,
}

/// A ref as a listing comes by it. See [`Ref`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefSeen<'a> {
    /// Its name, inside the namespace.
    pub name: &'a BStr,
    /// What it points to.
    pub id: &'a oid,
    /// What the tag it points to finally points to, if that was asked for.
    pub peeled: Option<&'a oid>,
    /// The ref that it names, if it is a symbolic one.
    pub symref_target: Option<&'a BStr>,
}

/// What a listing came to.
#[derive(Debug)]
pub struct RefList {
    /// Sorted by name.
    pub refs: Vec<Ref>,
    /// Whether none was left out for being broken. What is broken may be mended without any ref changing.
    pub complete: bool,
}

impl RefStore {
    /// The refs that a query asks for, as they are now.
    pub fn at_once<'a>(&'a self, query: &'a RefQuery) -> Result<RefsMoment<'a>, RefsError> {
        let namespace = names::namespace_prefix(query.namespace.as_ref().map(|n| n.as_bstr()))?;
        let wanted = match query.prefixes.as_slice() {
            [] => vec![namespace.clone()],
            prefixes => prefixes
                .iter()
                .map(|prefix| [namespace.as_slice(), prefix].concat().into())
                .collect(),
        };
        let wanted = Prefixes::new(wanted);
        let (mut raw, mut packed);
        let mut attempt = 0;
        loop {
            let before = Signature::at(&self.packed_path)?;
            raw = self.loose(&wanted)?;
            packed = self.packed()?;
            attempt += 1;
            // What moved from loose to packed meanwhile would be seen half: look again, but not for ever.
            if packed.signature == before || attempt == 3 {
                break;
            }
        }
        let mut loose = Vec::with_capacity(raw.len());
        for (name, raw) in raw {
            let came_to = match raw {
                Raw::Id(id) => Loose::Id(id),
                Raw::Broken => Loose::Broken,
                Raw::Symbolic(first) => self.resolve(first.as_bstr())?.map_or(Loose::Endless, Loose::Symbolic),
            };
            loose.push((name, came_to));
        }
        Ok(RefsMoment {
            store: self,
            query,
            namespace,
            wanted,
            loose,
            packed,
        })
    }
}

impl RefsMoment<'_> {
    /// Gives `take` everything that the list depends on but the query and the objects, so that two moments of this process are alike if and only if it was given the same. The cost is that of the loose
    /// refs: `packed-refs` is named by its version.
    pub fn tell_apart(&self, take: &mut dyn FnMut(&[u8])) {
        take(&self.packed.serial.to_le_bytes());
        take(&(self.loose.len() as u64).to_le_bytes());
        for (name, value) in &self.loose {
            take(name);
            match value {
                Loose::Id(id) => take(id.as_slice()),
                Loose::Symbolic(Resolved { name, id }) => {
                    take(b"symbolic");
                    take(name);
                    take(id.as_ref().map_or(&b""[..], |id| id.as_slice()));
                }
                Loose::Endless => take(b"endless"),
                Loose::Broken => take(b"broken"),
            }
        }
    }

    /// The refs, sorted by name. Broken ones (dangling, with content that is no ref, or, when `objects` is given, of objects that do not exist) are left out with a warning, as git leaves them out.
    pub fn list(&self, objects: Option<&dyn RefObjects>) -> Result<RefList, RefsError> {
        let mut refs = Vec::new();
        let complete = self.each(objects, &mut |seen| {
            refs.push(Ref {
                name: seen.name.into(),
                id: seen.id.to_owned(),
                peeled: seen.peeled.map(ToOwned::to_owned),
                symref_target: seen.symref_target.map(ToOwned::to_owned),
            });
            Ok::<_, RefsError>(())
        })?;
        Ok(RefList { refs, complete })
    }

    /// As [`list`](Self::list), one ref after the other; says whether none was left out for being broken.
    ///
    /// # Errors
    /// Those of reading, and the first of `see`.
    pub fn each<E: From<RefsError>>(
        &self,
        objects: Option<&dyn RefObjects>,
        see: &mut dyn FnMut(RefSeen<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let (store, packed) = (self.store, &*self.packed);
        let mut listing = Listing {
            moment: self,
            objects,
            see,
            complete: true,
        };
        let mut loose = self.loose.iter().peekable();
        for prefix in self.wanted.iter() {
            let range = packed.range(prefix)?;
            let known = packed.is_verified(&range);
            let mut all_good = true;
            for record in packed.records(range.clone()) {
                let record = record.map_err(E::from)?;
                while let Some((name, value)) = loose.next_if(|(name, _)| name.as_bstr() < record.name) {
                    listing.add_loose(name, value)?;
                }
                if let Some((name, value)) = loose.next_if(|(name, _)| name.as_bstr() == record.name) {
                    listing.add_loose(name, value)?;
                    continue;
                }
                if !store.is_shared_here(record.name) {
                    continue;
                }
                if !known && !names::is_valid(record.name) {
                    tracing::warn!(name = %record.name, "ignoring a packed ref with a broken name");
                    all_good = false;
                    continue;
                }
                let is_tag_known = packed.peeling == Peeling::Full
                    || record.peeled.is_some()
                    || (packed.peeling == Peeling::Tags && record.name.starts_with(b"refs/tags/"));
                let peeled = is_tag_known.then_some(record.peeled);
                all_good &= listing.add(record.name, record.id, peeled, None, known)?;
            }
            if all_good && !known && objects.is_some() {
                packed.set_verified(range);
            }
            listing.complete &= all_good;
            while let Some((name, value)) = loose.next_if(|(name, _)| name.starts_with(prefix)) {
                listing.add_loose(name, value)?;
            }
        }
        Ok(listing.complete)
    }
}

struct Listing<'a, E> {
    moment: &'a RefsMoment<'a>,
    objects: Option<&'a dyn RefObjects>,
    see: &'a mut dyn FnMut(RefSeen<'_>) -> Result<(), E>,
    complete: bool,
}

impl<E: From<RefsError>> Listing<'_, E> {
    fn add_loose(&mut self, name: &BString, value: &Loose) -> Result<(), E> {
        let (id, symref_target) = match value {
            Loose::Id(id) => (*id, None),
            Loose::Symbolic(Resolved {
                name: end,
                id: Some(id),
            }) => (*id, Some(end.as_bstr())),
            Loose::Broken => {
                tracing::warn!(%name, "ignoring a broken ref");
                self.complete = false;
                return Ok(());
            }
            Loose::Symbolic(_) | Loose::Endless => {
                tracing::warn!(%name, "ignoring a dangling symbolic ref");
                self.complete = false;
                return Ok(());
            }
        };
        self.complete &= self.add(name.as_bstr(), id, None, symref_target, false)?;
        Ok(())
    }

    /// `peeled` is `Some` when it is known whether the object is a tag. Says whether the ref was good.
    fn add(
        &mut self,
        full_name: &BStr,
        id: ObjectId,
        peeled: Option<Option<ObjectId>>,
        symref_target: Option<&BStr>,
        exists: bool,
    ) -> Result<bool, E> {
        let moment = self.moment;
        let Some(name) = full_name
            .strip_prefix(moment.namespace.as_bytes())
            .filter(|name| *name != b"HEAD")
        else {
            return Ok(true);
        };
        let mut peeled = peeled;
        if let Some(objects) = self.objects {
            let missing = if moment.query.peel && peeled.is_none() {
                match moment.store.target(objects, &id)? {
                    RefTarget::Missing => true,
                    RefTarget::Tag(target) => {
                        peeled = Some(target);
                        // It may be completed by a later push.
                        self.complete &= target.is_some();
                        false
                    }
                    RefTarget::Commit | RefTarget::Other => false,
                }
            } else {
                id.is_null() || (!exists && !objects.exists(&id)?)
            };
            if missing {
                tracing::warn!(name = %full_name, %id, "ignoring a ref to an object that does not exist");
                return Ok(false);
            }
        }
        let symref_target =
            symref_target.and_then(|target| Some(target.strip_prefix(moment.namespace.as_bytes())?.as_bstr()));
        let peeled = peeled.flatten().filter(|_| moment.query.peel);
        (self.see)(RefSeen {
            name: name.as_bstr(),
            id: &id,
            peeled: peeled.as_deref(),
            symref_target,
        })?;
        Ok(true)
    }
}
