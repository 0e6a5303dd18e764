mod cert;
mod live;
mod replaced;
mod rules;

use std::{
    cell::RefCell,
    io::{Read, Write},
    time::{Duration, SystemTime},
};

use bstr::{BString, ByteSlice};
use gix::hash::ObjectId;

use crate::{
    protocol::{
        Channel, Push, PushFeatures, PushParser, RefReport, RefStatus, Report, ReportOptions, ReportVersion, Sideband,
        error as error_packet, flush,
    },
    repo::{
        Connectivity, FsckPolicy, IngestOptions, IngestOutcome, IngestProgress, Odb, Quarantine, RefLog, RefOutcome,
        RefUpdate, RefValue, Repository, ingest, sweep_stale,
    },
};

pub(super) use cert::push_cert_nonce;

use super::{
    Context, ServiceError,
    band::{Band, Meter},
    input::{Input, Rest},
};
use rules::Rules;

/// Bytes of a refused push that are read and thrown away, so that the client gets to read why.
const DISCARD: u64 = 256 << 20;

/// Quarantines that are not ours, or whose owner cannot be told, are leftovers when nothing in them changed for so long.
const FOREIGN_QUARANTINE: Duration = Duration::from_secs(24 * 3600);

/// What a push did.
#[derive(Debug, Clone, Default)]
pub struct ReceiveSummary {
    /// Each ref command with its outcome, in the client's order.
    pub refs: Vec<RefResult>,
    /// Objects of the pack.
    pub objects: u32,
    /// Bytes of the pack.
    pub bytes: u64,
    /// Why the pack was refused.
    pub unpack_error: Option<String>,
}

/// What became of one ref command.
#[derive(Debug, Clone)]
pub struct RefResult {
    /// The ref as the client named it.
    pub name: BString,
    /// What the client believed it to be; zeros for nothing.
    pub old: ObjectId,
    /// What it shall be; zeros for nothing.
    pub new: ObjectId,
    /// Why not, if it is not.
    pub refused: Option<String>,
}

/// Answers `POST git-receive-pack`: takes the pack into quarantine, checks it, publishes it, moves the refs and reports.
///
/// Nothing of a push is visible before its objects are checked, complete and durable; refs move in one step. An empty push, which is also the probe that clients
/// send before a large body, gets an empty answer.
///
/// # Errors
/// When the request cannot be understood or the answer not be written. A push that is refused is no error: the summary says what happened.
pub fn receive_pack(
    repo: &Repository,
    ctx: &Context<'_>,
    body: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<ReceiveSummary, ServiceError> {
    let features = PushFeatures {
        atomic: repo.settings().receive.advertise_atomic,
        push_options: repo.settings().receive.advertise_push_options,
    };
    // Commands, push options, and room for the first bytes of the pack.
    let mut input = Input::new(body, ctx.limits.command_bytes as u64 * 2 + (1 << 20));
    let parser = PushParser::new(repo.hash_kind(), features);
    let asked = |parser: &PushParser| parser.capabilities_so_far().side_band_64k;
    let push = match input.request_or(parser, ctx.limits, asked) {
        Ok(push) => push,
        Err((err, sideband)) => {
            let mut buf = Vec::new();
            if sideband {
                // A client that has asked for side-band takes an `ERR` packet for a channel it does not know.
                Sideband::Large.write(&mut buf, Channel::Error, format!("{}\n", err.public_text()).as_bytes());
                flush(&mut buf);
            } else {
                error_packet(&mut buf, &err.public_text());
            }
            out.write_all(&buf)
                .and_then(|()| out.flush())
                .map_err(ServiceError::Write)?;
            return Err(err);
        }
    };
    if push.commands.is_empty() {
        return Ok(ReceiveSummary::default());
    }
    let sideband = if push.capabilities.side_band_64k {
        Sideband::Large
    } else {
        Sideband::None
    };
    let keep_alive = repo
        .settings()
        .receive
        .keep_alive
        .map(|after| (after, Channel::Progress));
    let mut band = Band::new(out, sideband, !push.capabilities.quiet, keep_alive);
    let mut job = Job::new(repo, ctx, &push);
    let done = job.run(&mut input.rest(), &mut band);
    if let Err(err) = done {
        if !err.is_gone() {
            let _ = band.error(&format!("{}\n", err.public_text()));
        }
        return Err(err);
    }
    job.report(&mut band)?;
    Ok(job.summary())
}

/// A ref command on its way.
struct Command {
    name: BString,
    full: BString,
    old: ObjectId,
    new: ObjectId,
    refused: Option<String>,
    /// Its history ends at these shallow commits of the client's.
    needs_shallow: bool,
    /// A working tree follows the branch.
    is_live: bool,
}

struct Job<'a> {
    repo: &'a Repository,
    ctx: &'a Context<'a>,
    push: &'a Push,
    commands: Vec<Command>,
    unpack_error: Option<String>,
    taken: Option<IngestOutcome>,
    /// Commits at which the repository's history will end, too, once a ref that needs it was accepted.
    new_shallow: Vec<ObjectId>,
}

impl<'a> Job<'a> {
    fn new(repo: &'a Repository, ctx: &'a Context<'a>, push: &'a Push) -> Self {
        let commands = push
            .commands
            .iter()
            .map(|command| Command {
                full: ctx.full_name(command.name.as_bstr()),
                name: command.name.clone(),
                old: command.old,
                new: command.new,
                refused: None,
                needs_shallow: false,
                is_live: false,
            })
            .collect();
        Job {
            repo,
            ctx,
            push,
            commands,
            unpack_error: None,
            taken: None,
            new_shallow: Vec::new(),
        }
    }

    fn run(&mut self, body: &mut Rest<'_>, band: &mut Band<'_>) -> Result<(), ServiceError> {
        let mut quarantine = None;
        if self.push.expects_pack() {
            quarantine = self.take_pack(body, band)?;
            if self.unpack_error.is_some() {
                self.refuse_rest("unpacker error");
                return Ok(());
            }
        }
        self.ctx.check()?;
        if !self.push.push_options_consistent() {
            self.refuse_rest("inconsistent push options");
            return Ok(());
        }
        // What is found here from now on stays until refs lead to it.
        let _objects = self.repo.hold_objects()?;
        let odb = match &quarantine {
            Some(quarantine) => self.repo.odb_behind(quarantine)?,
            None => self.repo.odb()?,
        };
        self.check_connected(&odb, band)?;
        let rules = Rules::load(self.repo, self.ctx)?;
        let live = self.find_live(&|branch| rules.is_checked_out(branch));
        for command in self.commands.iter_mut().filter(|c| c.refused.is_none()) {
            command.refused = rules.check(&odb, command, band)?;
        }
        let atomic = self.push.capabilities.atomic;
        if atomic && self.commands.iter().any(|c| c.refused.is_some()) {
            self.refuse_rest("atomic push failure");
        }
        if self.commands.iter().all(|c| c.refused.is_some()) {
            return Ok(());
        }
        self.ctx.check()?;
        let mut taken = self.take_live(&live, &odb, band)?;
        if atomic && self.commands.iter().any(|c| c.refused.is_some()) {
            self.refuse_rest("atomic push failure");
        }
        if self.commands.iter().all(|c| c.refused.is_some()) {
            return Ok(());
        }
        drop(odb);
        // From here on it is decided: the objects become the repository's, then the refs move.
        // Published objects are kept from being pruned until a ref holds them.
        let _published = match quarantine.map(Quarantine::migrate).transpose() {
            Ok(published) => published,
            Err(err) => {
                tracing::error!(error = &err as &dyn std::error::Error, "a push could not be published");
                self.refuse_rest("unable to migrate objects to permanent storage");
                return Ok(());
            }
        };
        if let Err(err) = self.extend_shallow() {
            tracing::error!(
                error = &err as &dyn std::error::Error,
                "the shallow file could not be updated"
            );
            for command in self
                .commands
                .iter_mut()
                .filter(|c| c.needs_shallow && c.refused.is_none())
            {
                command.refused = Some("failed to update shallow file".to_owned());
            }
            if atomic {
                self.refuse_rest("atomic push failure");
            }
        }
        if self.commands.iter().all(|c| c.refused.is_some()) {
            return Ok(());
        }
        self.prepare_live(&mut taken, band)?;
        if atomic && self.commands.iter().any(|c| c.refused.is_some()) {
            self.refuse_rest("atomic push failure");
        }
        if self.commands.iter().all(|c| c.refused.is_some()) {
            return self.finish_live(taken, band);
        }
        // Before the refs: no ref moves without the word of the one who moved it.
        if let Some(certificate) = &self.push.certificate
            && let Err(err) = cert::record(self.repo, self.ctx, certificate)
        {
            tracing::error!(
                error = &err as &dyn std::error::Error,
                "a push certificate could not be kept"
            );
            self.refuse_rest("failed to keep the push certificate");
            return self.finish_live(taken, band);
        }
        let moved = self.move_refs(atomic, band);
        // Whoever has gone meanwhile: refs that have moved are followed.
        self.finish_live(taken, band).and(moved)
    }

    /// Every command that was not refused yet, is.
    fn refuse_rest(&mut self, reason: &str) {
        for command in self.commands.iter_mut().filter(|c| c.refused.is_none()) {
            command.refused = Some(reason.to_owned());
        }
    }

    /// Clears away what a killed server left in this repository. A push need not fail for it.
    fn sweep(&self) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(self.ctx.clock.seconds().max(0).unsigned_abs());
        match sweep_stale(self.repo, FOREIGN_QUARANTINE, now) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed what killed pushes left behind"),
            Err(err) => tracing::warn!(error = &err as &dyn std::error::Error, "could not look for leftovers"),
        }
    }

    fn take_pack(&mut self, body: &mut Rest<'_>, band: &mut Band<'_>) -> Result<Option<Quarantine>, ServiceError> {
        let settings = self.repo.settings();
        let policy = match FsckPolicy::from_settings(&settings.receive) {
            Ok(policy) => policy,
            Err(err) => {
                // A broken policy must not let everything in.
                self.unpack_error = Some(err.to_string());
                return Ok(None);
            }
        };
        self.sweep();
        let mut quarantine = Quarantine::create(self.repo);
        let mut gone = None;
        let mut meter = Meter::new("Resolving deltas", None);
        let mut resolved = 0;
        let outcome = {
            let stop = self.ctx.stop;
            let mut progress = |step: IngestProgress| {
                let told = match step {
                    IngestProgress::Resolving { done, total } => {
                        meter.set_total(u64::from(total));
                        resolved = u64::from(total);
                        meter.tick(band, u64::from(done))
                    }
                    _ => band.alive(),
                };
                if let Err(err) = told {
                    gone.get_or_insert(err);
                    stop.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            };
            let options = IngestOptions {
                fsck: policy.as_ref(),
                max_bytes: settings.receive.max_input_size.unwrap_or(self.ctx.limits.pack_bytes),
                limits: self.ctx.limits,
                threads: self.ctx.limits.threads_per_request,
                client_shallow: &self.push.shallow,
                progress: &mut progress,
                stop,
            };
            ingest(self.repo, &mut quarantine, body, options)
        };
        if let Some(err) = gone {
            return Err(ServiceError::Write(err));
        }
        match outcome {
            Ok(taken) => {
                if resolved > 0 {
                    meter.done(band, resolved).map_err(ServiceError::Write)?;
                }
                self.taken = Some(taken);
                Ok(Some(quarantine))
            }
            Err(err) => {
                self.ctx.check()?;
                let fault = err.fault();
                tracing::info!(error = &err as &dyn std::error::Error, ?fault, "a pack was refused");
                let text = ServiceError::Ingest(err).public_text();
                band.warn(&format!("error: {text}\n")).map_err(ServiceError::Write)?;
                discard(body);
                self.unpack_error = Some(text);
                Ok(None)
            }
        }
    }

    /// Every new value must have its whole history here, or end where the client's does and the repository takes that.
    fn check_connected(&mut self, odb: &Odb, band: &mut Band<'_>) -> Result<(), ServiceError> {
        let open: Vec<usize> = (0..self.commands.len())
            .filter(|n| self.commands[*n].refused.is_none() && !self.commands[*n].new.is_null())
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let tips: Vec<ObjectId> = open.iter().map(|n| self.commands[*n].new).collect();
        let existing = self.repo.existing_tips()?;
        let own = self.repo.shallow()?;
        band.alive().map_err(ServiceError::Write)?;
        let (band, gone) = (RefCell::new(band), RefCell::new(None));
        let tick = || {
            if let Err(err) = band.borrow_mut().alive() {
                gone.borrow_mut().get_or_insert(err);
                self.ctx.stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let check = |tips: &[ObjectId], shallow: &[ObjectId]| {
            // What was ingested counts as whole with the client's boundary, so it may only be used when that holds.
            let received = self.taken.as_ref().filter(|_| self.push.shallow.is_empty());
            let (existing_tips, stop) = (&existing[..], self.ctx.stop);
            Connectivity {
                odb,
                received,
                existing_tips,
                shallow,
                stop,
                tick: &tick,
            }
            .check_each(tips)
            .map_err(|err| match gone.borrow_mut().take() {
                Some(err) => ServiceError::Write(err),
                None => err.into(),
            })
        };
        let connected = check(&tips, &own)?;
        let mut missing: Vec<usize> = open
            .iter()
            .zip(&connected)
            .filter(|(_, ok)| !**ok)
            .map(|(n, _)| *n)
            .collect();
        if !missing.is_empty() && !self.push.shallow.is_empty() {
            let bounds: Vec<ObjectId> = own.iter().chain(&self.push.shallow).copied().collect();
            let tips: Vec<ObjectId> = missing.iter().map(|n| self.commands[*n].new).collect();
            let connected = check(&tips, &bounds)?;
            let allowed = self.repo.settings().receive.shallow_update;
            let (mut still, mut new_shallow) = (Vec::new(), Vec::new());
            // What is whole here stays so, whatever the client lacks of it.
            let whole = check(&self.push.shallow, &own)?;
            for (id, whole) in self.push.shallow.iter().zip(whole) {
                if !whole && odb.contains(id)? {
                    new_shallow.push(*id);
                }
            }
            for (n, ok) in missing.iter().zip(&connected) {
                match (ok, allowed) {
                    (true, true) => self.commands[*n].needs_shallow = true,
                    (true, false) => self.commands[*n].refused = Some("shallow update not allowed".to_owned()),
                    (false, _) => still.push(*n),
                }
            }
            missing = still;
            self.new_shallow = new_shallow;
        }
        for n in missing {
            self.commands[n].refused = Some("missing necessary objects".to_owned());
        }
        Ok(())
    }

    /// The repository's history ends where that of the pushed refs does.
    fn extend_shallow(&self) -> Result<(), ServiceError> {
        if !self.commands.iter().any(|c| c.needs_shallow && c.refused.is_none()) {
            return Ok(());
        }
        self.repo.add_shallow(|present| {
            // Another push may have brought meanwhile what is behind a boundary.
            let odb = self.repo.odb()?;
            let existing_tips = self.repo.existing_tips()?;
            let whole = Connectivity {
                odb: &odb,
                received: None,
                existing_tips: &existing_tips,
                shallow: present,
                stop: self.ctx.stop,
                tick: &|| (),
            }
            .check_each(&self.new_shallow)?;
            let still = self.new_shallow.iter().zip(whole).filter(|(_, whole)| !whole);
            Ok(still.map(|(id, _)| *id).collect())
        })
    }

    /// What a deletion compares with. `None` when there is nothing to delete. What is broken can be deleted, as git has it, although no client can know what it
    /// holds; only what is good is compared with what the client believes.
    fn deletable(&self, command: &Command, band: &mut Band<'_>) -> Result<Option<ObjectId>, ServiceError> {
        let (value, odb) = (self.repo.ref_value(command.full.as_bstr())?, self.repo.odb()?);
        let corrupt = match &value {
            RefValue::Absent => {
                band.warn(&format!("warning: deleting a non-existent ref: {}\n", command.name))
                    .map_err(ServiceError::Write)?;
                return Ok(None);
            }
            RefValue::Broken => true,
            RefValue::Id(id) => !odb.contains(id)?,
        };
        if !corrupt {
            return Ok(Some(command.old));
        }
        band.warn(&format!(
            "warning: allowing deletion of corrupt ref: {}\n",
            command.name
        ))
        .map_err(ServiceError::Write)?;
        Ok(Some(match value {
            RefValue::Id(id) if !odb.contains(&command.old)? => id,
            _ => command.old,
        }))
    }

    fn move_refs(&mut self, atomic: bool, band: &mut Band<'_>) -> Result<(), ServiceError> {
        let log = RefLog {
            name: self.ctx.user.unwrap_or("anonymous").to_owned(),
            email: format!("{}@http.{}", self.ctx.user.unwrap_or("anonymous"), self.ctx.remote_addr),
            seconds: self.ctx.clock.seconds(),
            message: "push".to_owned(),
        };
        self.keep_replaced(&log, band)?;
        if atomic && self.commands.iter().any(|c| c.refused.is_some()) {
            self.refuse_rest("atomic push failure");
            return Ok(());
        }
        let mut updates = Vec::new();
        let (mut which, mut unread) = (Vec::new(), Vec::new());
        for (n, command) in self.commands.iter().enumerate().filter(|(_, c)| c.refused.is_none()) {
            let value = |id: ObjectId| (!id.is_null()).then_some(id);
            let mut old = command.old;
            if command.new.is_null() {
                match self.deletable(command, band) {
                    Ok(Some(present)) => old = present,
                    // As git does: what is not there cannot be deleted, but that is no reason to fail.
                    Ok(None) => continue,
                    Err(err) if err.is_gone() => return Err(err),
                    Err(err) => {
                        tracing::error!(error = &err as &dyn std::error::Error, "a ref could not be read");
                        unread.push(n);
                        continue;
                    }
                }
            }
            updates.push(RefUpdate {
                name: command.full.clone(),
                old: value(old),
                new: value(command.new),
            });
            which.push(n);
        }
        let failed = !unread.is_empty();
        for n in unread {
            self.commands[n].refused = Some("failed to update ref".to_owned());
        }
        if failed && atomic {
            self.refuse_rest("atomic push failure");
            return Ok(());
        }
        if updates.is_empty() {
            return Ok(());
        }
        let outcomes = match self.repo.update_refs(&updates, atomic, &log) {
            Ok(outcomes) => outcomes,
            Err(err) => {
                tracing::error!(error = &err as &dyn std::error::Error, "refs could not be updated");
                let reason = if atomic {
                    "atomic transaction failed"
                } else {
                    "failed to update ref"
                };
                for n in which {
                    self.commands[n].refused = Some(reason.to_owned());
                }
                return Ok(());
            }
        };
        for (n, outcome) in which.into_iter().zip(outcomes) {
            if let RefOutcome::Failed { reason, detail } = outcome {
                band.warn(&format!("error: {detail}\n")).map_err(ServiceError::Write)?;
                self.commands[n].refused = Some(reason);
            }
        }
        Ok(())
    }

    fn report(&self, band: &mut Band<'_>) -> Result<(), ServiceError> {
        let capabilities = &self.push.capabilities;
        let version = match (capabilities.report_status_v2, capabilities.report_status) {
            (true, _) => ReportVersion::V2,
            (false, true) => ReportVersion::V1,
            (false, false) => return band.finish().map_err(ServiceError::Write),
        };
        let report = Report {
            unpack_error: self.unpack_error.clone(),
            refs: self
                .commands
                .iter()
                .map(|c| RefReport {
                    name: c.name.clone(),
                    outcome: match &c.refused {
                        None => RefStatus::Ok(ReportOptions::default()),
                        Some(reason) => RefStatus::Ng(reason.clone()),
                    },
                })
                .collect(),
        };
        let mut lines = Vec::new();
        // Unframed: the band frames it, and its end.
        report.write(version, Sideband::None, &mut lines);
        band.write_all(&lines).map_err(ServiceError::Write)?;
        band.finish().map_err(ServiceError::Write)
    }

    fn summary(self) -> ReceiveSummary {
        ReceiveSummary {
            refs: self
                .commands
                .into_iter()
                .map(|c| RefResult {
                    name: c.name,
                    old: c.old,
                    new: c.new,
                    refused: c.refused,
                })
                .collect(),
            objects: self.taken.as_ref().map_or(0, |t| t.objects),
            bytes: self.taken.as_ref().map_or(0, |t| t.bytes),
            unpack_error: self.unpack_error,
        }
    }
}

/// Reads what a client is still sending, up to a bound, so that it reads our answer instead of a broken connection.
fn discard(body: &mut dyn Read) {
    let mut buf = vec![0; 64 * 1024];
    let mut left = DISCARD;
    while left > 0 {
        match body.read(&mut buf) {
            Ok(0) => return,
            Ok(n) => left = left.saturating_sub(n as u64),
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
