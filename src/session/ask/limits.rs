//! Who may ask now: so many questions in so long a time, so many at once, and one at a time in a session.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tokio::time::Instant;

use super::{AskError, AskRules, Asker, Whose};

/// Users whose questions are counted at a time, and addresses.
const USERS: usize = 10_000;

/// Questions that run, and those that are counted.
#[derive(Debug, Default)]
pub(super) struct Usage {
    users: HashMap<String, Counted>,
    /// By their networks, see [`network`].
    addresses: HashMap<String, Counted>,
    running: usize,
    /// Those of them that an agent has.
    put: usize,
    /// Sessions with a question.
    busy: HashSet<String>,
}

/// Questions of one user, or from one network.
#[derive(Debug, Default)]
struct Counted {
    times: VecDeque<Instant>,
    running: usize,
}

impl Counted {
    /// After how many seconds there may be another question, if not now.
    fn wait(&mut self, most: usize, window: Duration, now: Instant) -> Option<u64> {
        let is_old = |first: &Instant| now.duration_since(*first) >= window;
        while self.times.front().is_some_and(is_old) {
            self.times.pop_front();
        }
        let first = self.times.front().filter(|_| self.times.len() >= most)?;
        Some(window.saturating_sub(now.duration_since(*first)).as_secs() + 1)
    }
}

/// What an address is counted as: itself, and of IPv6 the first 64 bits, which are one customer's.
fn network(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).to_string()
        }
        _ => address.to_owned(),
    }
}

impl Usage {
    /// Takes up a question, if every bound allows it: all are looked at before anything is spent.
    ///
    /// # Errors
    /// Which of them does not.
    pub fn admit(&mut self, rules: &AskRules, asker: &Asker, session: &str, now: Instant) -> Result<(), AskError> {
        let window = rules.rate_window;
        let user = asker.user.as_str();
        let network = asker.address.as_deref().filter(|_| rules.address_max > 0).map(network);
        let is_new =
            |counted: &HashMap<String, Counted>, who: &str| counted.len() >= USERS && !counted.contains_key(who);
        if is_new(&self.users, user) {
            forget_the_quiet(&mut self.users, window, now);
        }
        if network
            .as_deref()
            .is_some_and(|network| is_new(&self.addresses, network))
        {
            forget_the_quiet(&mut self.addresses, window, now);
        }
        if is_new(&self.users, user)
            || network
                .as_deref()
                .is_some_and(|network| is_new(&self.addresses, network))
        {
            return Err(AskError::Full);
        }
        if let Some(network) = &network
            && let Some(counted) = self.addresses.get_mut(network)
            && let Some(retry_after) = counted.wait(rules.address_max, window, now)
        {
            let whose = Whose::Address;
            return Err(AskError::RateLimited { retry_after, whose });
        }
        if self.busy.contains(session) {
            return Err(AskError::Busy);
        }
        let is_full = self.running >= rules.total;
        let of_user = self.users.entry(user.to_owned()).or_default();
        if let Some(retry_after) = of_user.wait(rules.rate_max, window, now) {
            let whose = Whose::User;
            return Err(AskError::RateLimited { retry_after, whose });
        }
        if of_user.running >= rules.per_user {
            return Err(AskError::Busy);
        }
        if is_full {
            return Err(AskError::Full);
        }
        of_user.times.push_back(now);
        of_user.running += 1;
        if let Some(network) = network {
            self.addresses.entry(network).or_default().times.push_back(now);
        }
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

    /// A question that was taken up at that time was not put, through no fault of whoever asked: it does not count.
    pub fn refund(&mut self, asker: &Asker, taken_up: Instant) {
        let network = asker.address.as_deref().map(network).unwrap_or_default();
        let of_user = self.users.get_mut(&asker.user);
        for counted in of_user.into_iter().chain(self.addresses.get_mut(&network)) {
            if let Some(at) = counted.times.iter().rposition(|time| *time == taken_up) {
                counted.times.remove(at);
            }
        }
    }

    /// Whether there is a question in this session.
    pub fn is_busy(&self, session: &str) -> bool {
        self.busy.contains(session)
    }
}

fn forget_the_quiet(counted: &mut HashMap<String, Counted>, window: Duration, now: Instant) {
    let recent = |last: &Instant| now.duration_since(*last) < window;
    counted.retain(|_, one| one.running > 0 || one.times.back().is_some_and(recent));
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

    fn asker(user: &str) -> Asker {
        from(user, "10.0.0.1")
    }

    fn from(user: &str, address: &str) -> Asker {
        Asker {
            user: user.to_owned(),
            address: Some(address.to_owned()),
            request: None,
        }
    }

    #[test]
    fn one_address_asks_only_so_often_whoever_it_is() {
        let rules = AskRules {
            address_max: 2,
            ..rules(9, 9, 9)
        };
        let (mut usage, now) = (Usage::default(), Instant::now());
        let mut n = 0;
        let mut ask = |who: &Asker, now: Instant| {
            n += 1;
            let said = usage.admit(&rules, who, &format!("s{n}"), now);
            if said.is_ok() {
                usage.release(&who.user, &format!("s{n}"), false);
            }
            said
        };
        assert!(ask(&from("ann", "10.0.0.1"), now).is_ok());
        assert!(ask(&from("bob", "10.0.0.1"), now).is_ok());
        let refused = ask(&from("eve", "10.0.0.1"), now + Duration::from_secs(30));
        assert!(
            matches!(
                refused,
                Err(AskError::RateLimited {
                    retry_after: 31,
                    whose: Whose::Address
                })
            ),
            "{refused:?}"
        );
        assert!(ask(&from("eve", "10.0.0.2"), now).is_ok(), "nothing was spent");
        assert!(ask(&from("eve", "10.0.0.1"), now + Duration::from_secs(60)).is_ok());
        // One network is one customer.
        assert!(ask(&from("ann", "2001:db8:1:2::3"), now).is_ok());
        assert!(ask(&from("ann", "2001:db8:1:2:4::5"), now).is_ok());
        assert!(ask(&from("ann", "2001:db8:1:2:6::7"), now).is_err());
        assert!(ask(&from("ann", "2001:db8:1:3::3"), now).is_ok());
        usage.refund(&from("ann", "2001:db8:1:2::9"), now);
        assert!(
            usage
                .admit(&rules, &from("ann", "2001:db8:1:2::3"), "last", now)
                .is_ok()
        );
    }

    #[test]
    fn addresses_are_remembered_for_as_long_as_they_count() {
        let rules = AskRules {
            address_max: 1,
            ..rules(USERS * 2, USERS, USERS)
        };
        let (mut usage, now) = (Usage::default(), Instant::now());
        for n in 0..USERS {
            let who = from("ann", &format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255));
            assert!(usage.admit(&rules, &who, &n.to_string(), now).is_ok());
            usage.release("ann", &n.to_string(), false);
        }
        let other = from("ann", "192.0.2.1");
        assert!(matches!(usage.admit(&rules, &other, "x", now), Err(AskError::Full)));
        assert!(usage.admit(&rules, &other, "x", now + Duration::from_secs(61)).is_ok());
        assert_eq!(usage.addresses.len(), 1);
    }

    #[test]
    fn what_one_bound_refuses_is_spent_by_none() {
        let (rules, now) = (rules(2, 1, 1), Instant::now());
        let mut usage = Usage::default();
        assert!(usage.admit(&rules, &asker("ann"), "a", now).is_ok());
        assert_eq!(usage.now(), (0, 1), "it waits");
        usage.put();
        assert_eq!(usage.now(), (1, 0));
        for _ in 0..10 {
            assert!(matches!(
                usage.admit(&rules, &asker("ann"), "a", now),
                Err(AskError::Busy)
            ));
            assert!(matches!(
                usage.admit(&rules, &asker("ann"), "b", now),
                Err(AskError::Busy)
            ));
            assert!(matches!(
                usage.admit(&rules, &asker("bob"), "c", now),
                Err(AskError::Full)
            ));
        }
        usage.release("ann", "a", true);
        assert_eq!(usage.now(), (0, 0));
        assert!(usage.admit(&rules, &asker("ann"), "b", now).is_ok(), "her second");
        usage.release("ann", "b", false);
        let refused = usage.admit(&rules, &asker("ann"), "b", now + Duration::from_secs(20));
        assert!(
            matches!(
                refused,
                Err(AskError::RateLimited {
                    retry_after: 41,
                    whose: Whose::User
                })
            ),
            "{refused:?}"
        );
        assert!(usage.admit(&rules, &asker("bob"), "c", now).is_ok());
        usage.release("bob", "c", false);
        assert!(
            usage
                .admit(&rules, &asker("ann"), "a", now + Duration::from_secs(60))
                .is_ok()
        );
    }

    #[test]
    fn users_who_ask_no_more_are_forgotten_for_those_who_do() {
        let (rules, now) = (rules(1, 1, USERS + 1), Instant::now());
        let mut usage = Usage::default();
        for n in 0..USERS {
            let (user, session) = (format!("u{n}"), format!("s{n}"));
            assert!(usage.admit(&rules, &asker(&user), &session, now).is_ok());
            if n > 0 {
                usage.release(&user, &session, false);
            }
        }
        assert!(matches!(
            usage.admit(&rules, &asker("new"), "x", now),
            Err(AskError::Full)
        ));
        let later = now + Duration::from_secs(61);
        assert!(usage.admit(&rules, &asker("new"), "x", later).is_ok());
        assert!(usage.users.contains_key("u0"), "a question of his runs");
        assert!(!usage.users.contains_key("u1"));
    }
}
