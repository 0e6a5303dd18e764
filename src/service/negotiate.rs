use std::sync::atomic::AtomicBool;

use gix::hash::ObjectId;

use crate::{
    protocol::{AckStatus, Fetch, FetchEnd, MultiAck, ack, nak},
    repo::{CommonGround, Odb},
};

use super::ServiceError;

/// What the client has in common with us, found have by have.
pub(super) struct Negotiation<'a> {
    odb: &'a Odb,
    wants: &'a [ObjectId],
    shallow: &'a [ObjectId],
    stop: &'a AtomicBool,
    /// Haves that are here, in their order.
    pub(super) common: Vec<ObjectId>,
    ground: Option<CommonGround<'a>>,
    /// The last answer to "is it enough?", and for how many common objects it was.
    enough: (usize, bool),
    /// How often it was asked between haves.
    asked: u32,
}

/// Questions between haves that are answered at once. Each may walk all history, so later ones wait until twice as much is common (or until the round ends):
/// whatever a request holds, it causes some hundred walks at most.
const PROMPT_ANSWERS: u32 = 64;

impl<'a> Negotiation<'a> {
    pub(super) fn new(odb: &'a Odb, wants: &'a [ObjectId], shallow: &'a [ObjectId], stop: &'a AtomicBool) -> Self {
        Negotiation {
            odb,
            wants,
            shallow,
            stop,
            common: Vec::new(),
            ground: None,
            enough: (0, false),
            asked: 0,
        }
    }

    /// Takes a `have` and says whether the object is here.
    pub(super) fn have(&mut self, id: &ObjectId) -> Result<bool, ServiceError> {
        let here = self.odb.contains_probably(id)?;
        if here {
            self.common.push(*id);
        }
        Ok(here)
    }

    /// Whether every want has a common ancestor, so that more haves would only make the pack a little smaller.
    pub(super) fn enough(&mut self) -> Result<bool, ServiceError> {
        let (count, answer) = self.enough;
        if answer || count == self.common.len() {
            return Ok(answer);
        }
        let ground = match &mut self.ground {
            Some(ground) => ground,
            empty => empty.insert(CommonGround::new(self.odb, self.wants, self.shallow)?),
        };
        ground.add(&self.common[count..], self.stop)?;
        let answer = ground.is_enough(self.stop)?;
        self.enough = (self.common.len(), answer);
        Ok(answer)
    }

    /// As [`enough`](Self::enough), between two haves of a request that may hold very many.
    fn enough_already(&mut self) -> Result<bool, ServiceError> {
        let (count, answer) = self.enough;
        if !answer && self.asked >= PROMPT_ANSWERS && self.common.len() < count * 2 {
            return Ok(false);
        }
        self.asked += u32::from(!answer && count != self.common.len());
        self.enough()
    }

    /// Answers the haves of a version 0 or 1 round. True when the pack follows.
    pub(super) fn answer_v0(&mut self, fetch: &Fetch, end: FetchEnd, out: &mut Vec<u8>) -> Result<bool, ServiceError> {
        let mut last = None;
        let mut got_other = false;
        let mut sent_ready = false;
        for id in &fetch.haves {
            if self.have(id)? {
                last = Some(*id);
                match fetch.multi_ack {
                    MultiAck::Detailed => ack(id, AckStatus::Common, out),
                    MultiAck::Plain => ack(id, AckStatus::Continue, out),
                    MultiAck::No if self.common.len() == 1 => ack(id, AckStatus::Final, out),
                    MultiAck::No => {}
                }
                continue;
            }
            got_other = true;
            // An object of the client's that we lack: once there is enough in common it need not tell us more of that line of history.
            if fetch.multi_ack != MultiAck::No && self.enough_already()? {
                if fetch.multi_ack == MultiAck::Detailed {
                    sent_ready = true;
                    ack(id, AckStatus::Ready, out);
                } else {
                    ack(id, AckStatus::Continue, out);
                }
            }
        }
        if end == FetchEnd::Done {
            match last {
                // Without multi_ack the first common object was acknowledged when it came.
                Some(id) if fetch.multi_ack != MultiAck::No && !self.common.is_empty() => {
                    ack(&id, AckStatus::Final, out);
                }
                _ if self.common.is_empty() => nak(out),
                _ => {}
            }
            return Ok(true);
        }
        if fetch.multi_ack == MultiAck::Detailed
            && !got_other
            && let Some(id) = last
            && self.enough()?
        {
            sent_ready = true;
            ack(&id, AckStatus::Ready, out);
        }
        if self.common.is_empty() || fetch.multi_ack != MultiAck::No {
            nak(out);
        }
        if let (true, true, Some(id)) = (fetch.no_done, sent_ready, last) {
            ack(&id, AckStatus::Final, out);
            return Ok(true);
        }
        Ok(false)
    }
}
