//! How many agents there may be, and which make room for others.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{AgentName, AgentRecord, Agents, Entry, RestartMode, SandboxMode, SessionError, State, house::Inner};
use crate::{agent, base::RepoName};

/// How often it is looked which have been kept long enough, at least and at most.
const OFTEN: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(60);

/// Whether somebody needs an agent that has ended, by its name and when it was made.
pub(super) type Needed = Box<dyn Fn(&AgentName, u64) -> bool + Send + Sync>;

/// One that nobody will go on with by himself: it has ended, is not one that always runs, and answers in no session that can be resumed.
fn is_spent(record: &AgentRecord) -> bool {
    record.state.is_over() && record.spec.restart.mode != RestartMode::Always && record.desk.is_none()
}

fn is_running(state: State) -> bool {
    state != State::Created && !state.is_over()
}

/// The agent that a run is of, its stamp, and the number of the run: what [`AgentRecord::run_name`] has put together.
pub(super) fn run_of(run: &str) -> Option<(&str, &str, u32)> {
    let mut parts = run.rsplitn(3, '-');
    let number = parts.next()?.parse().ok()?;
    let stamp = parts.next()?;
    Some((parts.next()?, stamp, number))
}

impl Agents {
    /// The parent processes of agents that run in a sandbox: what is below them is not to be trusted as the user that it runs as.
    pub fn confined(&self) -> Vec<i32> {
        let agents = self.list();
        agents.iter().filter_map(|entry| self.confined_parent(entry)).collect()
    }

    /// Whether there are any of these.
    pub fn has_confined(&self) -> bool {
        self.any(|entry| self.confined_parent(entry).is_some())
    }

    fn confined_parent(&self, entry: &Entry) -> Option<i32> {
        let house = self.context().fences.sandbox.mode;
        let is_held = house.max(entry.shared.spec.sandbox.mode) != SandboxMode::Off;
        Some(entry.agent.parent_process().filter(|_| is_held)?.0)
    }

    /// Refuses what takes the files from under an agent: in this workspace, or in any of the repository.
    ///
    /// # Errors
    /// [`SessionError::Running`] with the first that has not ended.
    pub fn check_idle(&self, repository: &RepoName, workspace: Option<&str>) -> Result<(), SessionError> {
        let works_there = |entry: &Arc<Entry>| {
            let spec = &entry.shared.spec;
            let state = entry.state();
            let is_there = state != State::Created && !state.is_over();
            let is_meant = workspace.is_none_or(|name| spec.workspace == name);
            is_there && is_meant && spec.repository == repository.canonical()
        };
        match self.list().into_iter().find(works_there) {
            Some(entry) => Err(SessionError::Running {
                name: entry.record().name,
                state: entry.state(),
            }),
            None => Ok(()),
        }
    }

    /// Forgets the one that ended first of those that nobody will go on with. Says whether there was one.
    pub(super) async fn make_room(&self) -> bool {
        let Some(entry) = self.spent(u64::MAX).into_iter().next() else {
            return false;
        };
        self.let_go(entry, "forgotten, to make room for another one").await;
        true
    }

    /// Those that nobody will go on with and that ended before `before` (milliseconds since 1970), in the order of their ends.
    fn spent(&self, before: u64) -> Vec<Arc<Entry>> {
        let mut found: Vec<_> = self
            .list()
            .into_iter()
            .filter_map(|entry| {
                let record = entry.shared.record();
                let ended = record.ended.unwrap_or(record.created);
                let is_meant = is_spent(&record) && ended < before && !self.is_needed(&record.name, record.created);
                drop(record);
                is_meant.then_some((ended, entry))
            })
            .collect();
        found.sort_by_key(|(ended, _)| *ended);
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    async fn let_go(&self, entry: Arc<Entry>, why: &str) {
        let name = entry.record().name;
        match self.forget_whole(entry).await {
            Ok(()) => tracing::info!(agent = %name, "{why}"),
            // Somebody was quicker, or has started it.
            Err(SessionError::NotFound { .. } | SessionError::Running { .. }) => {}
            Err(error) => tracing::warn!(agent = %name, %error, "an agent that has ended is still there"),
        }
    }

    /// Refuses one more of a user who has as many as one may have. `but` is not counted.
    pub(super) fn check_user(&self, owner: Option<&str>, but: Option<&AgentName>) -> Result<(), SessionError> {
        // Where nobody is asked who he is, all would be the same one.
        let Some(owner) = owner else { return Ok(()) };
        let most = self.context().limits.agents_per_user;
        let all = self.list();
        let his = all.iter().filter(|entry| {
            let record = entry.shared.record();
            record.owner.as_deref() == Some(owner) && Some(&record.name) != but && !entry.state().is_over()
        });
        match his.count() < most {
            true => Ok(()),
            false => Err(SessionError::TooManyOfUser { most }),
        }
    }

    /// Refuses to let one more run if as many do as may.
    pub(super) fn check_running(&self) -> Result<(), SessionError> {
        let most = self.context().limits.agents_running;
        let running = self.list().iter().filter(|entry| is_running(entry.state())).count();
        match running < most {
            true => Ok(()),
            false => Err(SessionError::TooManyRunning { most }),
        }
    }

    /// Ends what is left of runs of these agents that are over as far as the ledger knows: their last steps may have been missed by a Gitstead that was killed. Blocks, and must
    /// be called before any of them is started. Runs that are still to be taken up are left alone, and so are those of agents that this ledger does not have: they may be another
    /// server's.
    pub(super) fn sweep_left(&self, known: &[(String, AgentRecord)]) {
        if known.is_empty() {
            return;
        }
        let known: HashMap<(&str, String), _> = known
            .iter()
            .map(|(_, record)| {
                let taken_up = is_running(record.state).then_some(record.run);
                ((record.name.as_str(), record.stamp()), taken_up)
            })
            .collect();
        let is_left = |run: &str| {
            let Some((name, stamp, number)) = run_of(run) else {
                return false;
            };
            known
                .get(&(name, stamp.to_owned()))
                .is_some_and(|taken_up| *taken_up != Some(number))
        };
        let killed = agent::sweep_left(self.context().fences.cgroups.as_ref(), is_left);
        if killed > 0 {
            tracing::warn!(killed, "ended processes that agents of an earlier server had left");
        }
    }

    /// Forgets those that ended long enough ago, for as long as there is this house.
    pub(super) fn forget_in_time(&self) {
        let keep = self.context().limits.agent_keep;
        if keep.is_zero() {
            return;
        }
        let house: Weak<Inner> = self.weak();
        tokio::spawn(async move {
            let mut often = tokio::time::interval((keep / 4).clamp(OFTEN, SELDOM));
            loop {
                often.tick().await;
                let Some(agents) = Agents::of_weak(&house) else { return };
                let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
                for entry in agents.spent(agents.now().saturating_sub(keep)) {
                    agents.let_go(entry, "forgotten, as it ended long ago").await;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_run_says_whose_it_is() {
        assert_eq!(run_of("sh-1-17x0a-12"), Some(("sh-1", "17x0a", 12)));
        for none in ["", "sh", "sh-1", "sh-1-x", "1-2"] {
            assert_eq!(run_of(none), None, "{none}");
        }
        let place = crate::session::Place::parse("demo", "main").expect("names");
        let spec = crate::session::AgentSpec::new(&place, vec!["sh".to_owned()]);
        let name = AgentName::parse("sh-1").expect("a name");
        // As two servers would at the same moment.
        let [one, other] = [(); 2].map(|()| AgentRecord::new(name.clone(), spec.clone(), None, 17));
        assert_ne!(one.run_name(1), other.run_name(1));
        let (run, stamp) = (one.run_name(3), one.stamp());
        assert_eq!(run_of(&run), Some(("sh-1", stamp.as_str(), 3)));
    }
}
