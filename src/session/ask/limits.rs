//! Who may ask now: so many questions in so long a time, so many at once, and one at a time in a session.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{AskError, AskRules};

/// Users whose questions are counted at a time.
const USERS: usize = 10_000;

/// Questions that run, and those that are counted.
#[derive(Debug, Default)]
pub(super) struct Usage {
    users: HashMap<String, OfUser>,
    running: usize,
    /// Those of them that an agent has.
    put: usize,
    /// Sessions with a question.
    busy: HashSet<String>,
}

#[derive(Debug, Default)]
struct OfUser {
    times: VecDeque<Instant>,
    running: usize,
}

impl Usage {
    /// Takes up a question, if every bound allows it: all are looked at before anything is spent.
    ///
    /// # Errors
    /// Which of them does not.
    pub fn admit(&mut self, rules: &AskRules, user: &str, session: &str, now: Instant) -> Result<(), AskError> {
        if self.users.len() >= USERS && !self.users.contains_key(user) {
            self.forget_the_quiet(rules.rate_window, now);
            if self.users.len() >= USERS {
                return Err(AskError::Full);
            }
        }
        if self.busy.contains(session) {
            return Err(AskError::Busy);
        }
        let is_full = self.running >= rules.total;
        let of_user = self.users.entry(user.to_owned()).or_default();
        let is_old = |first: &Instant| now.duration_since(*first) >= rules.rate_window;
        while of_user.times.front().is_some_and(is_old) {
            of_user.times.pop_front();
        }
        if of_user.times.len() >= rules.rate_max
            && let Some(first) = of_user.times.front()
        {
            let left = rules.rate_window.saturating_sub(now.duration_since(*first));
            return Err(AskError::RateLimited {
                retry_after: left.as_secs() + 1,
            });
        }
        if of_user.running >= rules.per_user {
            return Err(AskError::Busy);
        }
        if is_full {
            return Err(AskError::Full);
        }
        of_user.times.push_back(now);
        of_user.running += 1;
        self.running += 1;
        self.busy.insert(session.to_owned());
        Ok(())
    }

    /// A question that was taken up is given to an agent.
    pub fn put(&mut self) {
        self.put += 1;
    }

    /// Questions that an agent has, and those that wait for one that is being started.
    pub fn now(&self) -> (usize, usize) {
        (self.put, self.running.saturating_sub(self.put))
    }

    /// A question that was taken up is over, and whether an agent had it.
    pub fn release(&mut self, user: &str, session: &str, was_put: bool) {
        self.put = self.put.saturating_sub(usize::from(was_put));
        self.running = self.running.saturating_sub(1);
        self.busy.remove(session);
        if let Some(of_user) = self.users.get_mut(user) {
            of_user.running = of_user.running.saturating_sub(1);
        }
    }

    /// A question that was taken up at that time was not put, through no fault of this user's: it does not count.
    pub fn refund(&mut self, user: &str, taken_up: Instant) {
        if let Some(of_user) = self.users.get_mut(user)
            && let Some(at) = of_user.times.iter().rposition(|time| *time == taken_up)
        {
            of_user.times.remove(at);
        }
    }

    /// Whether there is a question in this session.
    pub fn is_busy(&self, session: &str) -> bool {
        self.busy.contains(session)
    }

    fn forget_the_quiet(&mut self, window: Duration, now: Instant) {
        let recent = |last: &Instant| now.duration_since(*last) < window;
        self.users
            .retain(|_, usage| usage.running > 0 || usage.times.back().is_some_and(recent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rate_max: usize, per_user: usize, total: usize) -> AskRules {
        AskRules {
            rate_max,
            per_user,
            total,
            rate_window: Duration::from_secs(60),
            ..AskRules::default()
        }
    }

    #[test]
    fn what_one_bound_refuses_is_spent_by_none() {
        let (rules, now) = (rules(2, 1, 1), Instant::now());
        let mut usage = Usage::default();
        assert!(usage.admit(&rules, "ann", "a", now).is_ok());
        assert_eq!(usage.now(), (0, 1), "it waits");
        usage.put();
        assert_eq!(usage.now(), (1, 0));
        for _ in 0..10 {
            assert!(matches!(usage.admit(&rules, "ann", "a", now), Err(AskError::Busy)));
            assert!(matches!(usage.admit(&rules, "ann", "b", now), Err(AskError::Busy)));
            assert!(matches!(usage.admit(&rules, "bob", "c", now), Err(AskError::Full)));
        }
        usage.release("ann", "a", true);
        assert_eq!(usage.now(), (0, 0));
        assert!(usage.admit(&rules, "ann", "b", now).is_ok(), "her second");
        usage.release("ann", "b", false);
        let refused = usage.admit(&rules, "ann", "b", now + Duration::from_secs(20));
        assert!(
            matches!(refused, Err(AskError::RateLimited { retry_after: 41 })),
            "{refused:?}"
        );
        assert!(usage.admit(&rules, "bob", "c", now).is_ok());
        usage.release("bob", "c", false);
        assert!(usage.admit(&rules, "ann", "a", now + Duration::from_secs(60)).is_ok());
    }

    #[test]
    fn users_who_ask_no_more_are_forgotten_for_those_who_do() {
        let (rules, now) = (rules(1, 1, USERS + 1), Instant::now());
        let mut usage = Usage::default();
        for n in 0..USERS {
            let (user, session) = (format!("u{n}"), format!("s{n}"));
            assert!(usage.admit(&rules, &user, &session, now).is_ok());
            if n > 0 {
                usage.release(&user, &session, false);
            }
        }
        assert!(matches!(usage.admit(&rules, "new", "x", now), Err(AskError::Full)));
        let later = now + Duration::from_secs(61);
        assert!(usage.admit(&rules, "new", "x", later).is_ok());
        assert!(usage.users.contains_key("u0"), "a question of his runs");
        assert!(!usage.users.contains_key("u1"));
    }
}
