use std::{collections::HashSet, io::Write};

use bstr::{BStr, BString, ByteSlice};
use gix::hash::ObjectId;

use crate::{
    base::{Deepen, Filter, Version},
    protocol::{
        Channel, Fetch, FetchEnd, FetchReply, FetchV0Parser, ObjectInfo, RequestError, Section, Sideband, V2Command,
        V2Parser, bundle_uri_line, error as error_packet, flush, object_info_header, object_info_line, shallow_update,
    },
    repo::{
        Anew, DeepenTo, FilterPlan, FilterRefused, FilterResolveError, ObjectSet, Odb, PackOptions, Repository,
        SendError, SendRequest, ShallowPlan, enumerate, plan_deepen, write_pack,
    },
};

use super::{
    Context, ServiceError,
    advertise::v2_features,
    answers::{Found, Key, Question, WHOLE, Whole},
    band::{Band, Meter},
    input::Input,
    ls_refs::ls_refs,
    negotiate::Negotiation,
    wants::{Visible, WantPolicy, beyond, check_wants, hidden},
};

/// Answers `POST git-upload-pack`: one round of version 0 or 1, or one command of version 2.
///
/// # Errors
/// What went wrong, for the log. The client has been told in the stream, unless it has gone.
pub fn upload_pack(
    repo: &Repository,
    ctx: &Context<'_>,
    version: Version,
    body: &mut dyn std::io::Read,
    out: &mut dyn Write,
) -> Result<(), ServiceError> {
    let house = ctx.limits.upload_request_bytes;
    let limit = repo
        .settings()
        .http
        .max_request_buffer
        .map_or(house, |own| own.min(house));
    let input = Input::new(body, limit);
    match version {
        Version::V2 => upload_v2(repo, ctx, input, out),
        _ => upload_v0(repo, ctx, input, out),
    }
}

/// Tells the client why, as an `ERR` packet, and returns the error.
fn refuse(out: &mut dyn Write, err: ServiceError) -> ServiceError {
    if err.is_gone() {
        return err;
    }
    let mut buf = Vec::new();
    error_packet(&mut buf, &err.public_text());
    match out.write_all(&buf).and_then(|()| out.flush()) {
        Ok(()) => err,
        Err(gone) => ServiceError::Write(gone),
    }
}

fn put(out: &mut dyn Write, buf: &mut Vec<u8>) -> Result<(), ServiceError> {
    out.write_all(buf).map_err(ServiceError::Write)?;
    buf.clear();
    Ok(())
}

fn upload_v2(
    repo: &Repository,
    ctx: &Context<'_>,
    mut input: Input<'_>,
    out: &mut dyn Write,
) -> Result<(), ServiceError> {
    let parser = V2Parser::new(repo.hash_kind(), v2_features(repo.settings()));
    let request = match input.request(parser, ctx.limits) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(err) => return Err(refuse(out, err)),
    };
    match request.command {
        V2Command::LsRefs(request) => ls_refs(repo, ctx, &request, out).map_err(|err| refuse(out, err)),
        V2Command::ObjectInfo(request) => object_info(repo, ctx, &request, out).map_err(|err| refuse(out, err)),
        V2Command::BundleUri => bundle_uri(repo, out).map_err(|err| refuse(out, err)),
        V2Command::Fetch(fetch) => fetch_v2(repo, ctx, &fetch, out),
    }
}

fn object_info(
    repo: &Repository,
    ctx: &Context<'_>,
    request: &ObjectInfo,
    out: &mut dyn Write,
) -> Result<(), ServiceError> {
    let odb = repo.odb()?;
    let mut sizes = Vec::with_capacity(request.ids.len());
    for id in &request.ids {
        ctx.check()?;
        sizes.push(odb.header(id)?.map(|(_, size)| size));
    }
    // Where refs are hidden, only what is reachable from those that are shown may be asked about.
    let here: Vec<ObjectId> = request
        .ids
        .iter()
        .zip(&sizes)
        .filter(|(_, size)| size.is_some())
        .map(|(id, _)| *id)
        .collect();
    let secret: HashSet<ObjectId> = beyond(repo, &odb, ctx, &here, WantPolicy::of(repo, ctx, true))?
        .into_iter()
        .collect();
    let mut buf = Vec::new();
    // Who asks about nothing is not even told what would be told.
    if request.size && !request.ids.is_empty() {
        object_info_header(&mut buf);
    }
    for (id, size) in request.ids.iter().zip(sizes) {
        let size = size.filter(|_| !secret.contains(id));
        object_info_line(id, request.size.then_some(size), &mut buf);
        if buf.len() >= 32 * 1024 {
            put(out, &mut buf)?;
        }
    }
    flush(&mut buf);
    put(out, &mut buf)?;
    out.flush().map_err(ServiceError::Write)
}

fn bundle_uri(repo: &Repository, out: &mut dyn Write) -> Result<(), ServiceError> {
    let mut buf = Vec::new();
    for (key, value) in &repo.settings().bundle {
        bundle_uri_line(key.as_bstr(), value.as_bstr(), &mut buf);
    }
    flush(&mut buf);
    put(out, &mut buf)?;
    out.flush().map_err(ServiceError::Write)
}

fn check_filter(repo: &Repository, filter: Option<&Filter>) -> Result<(), ServiceError> {
    let Some(filter) = filter else { return Ok(()) };
    repo.settings().filters.check(filter).map_err(|refused| {
        ServiceError::Request(match refused {
            FilterRefused::NotAllowed { name } => RequestError::FilterNotSupported { name },
            FilterRefused::TooDeep { max, depth } => RequestError::FilterTreeDepth { max, got: depth },
        })
    })
}

/// git's own "everything" as a depth.
const WHOLE_HISTORY: u32 = i32::MAX as u32;

/// What stopped because the client left is no failure of the pack's.
fn gone_or(err: SendError) -> ServiceError {
    match err {
        SendError::Stopped => ServiceError::Gone,
        SendError::Write(err) => ServiceError::Write(err),
        err => ServiceError::Send(err),
    }
}

/// A fetch whose wants were found good.
struct Job<'a> {
    repo: &'a Repository,
    ctx: &'a Context<'a>,
    odb: Odb,
    fetch: &'a Fetch,
    wants: Vec<ObjectId>,
    wanted_refs: Vec<(BString, ObjectId)>,
    repo_shallow: Vec<ObjectId>,
}

impl<'a> Job<'a> {
    fn new(repo: &'a Repository, ctx: &'a Context<'a>, fetch: &'a Fetch, v2: bool) -> Result<Self, ServiceError> {
        check_filter(repo, fetch.filter.as_ref())?;
        let odb = repo.odb()?;
        let mut wanted_refs = Vec::new();
        for name in &fetch.want_refs {
            let full = ctx.full_name(name.as_bstr());
            let found = if hidden(ctx, &repo.settings().hide_refs_upload, name.as_bstr()) {
                None
            } else {
                repo.find_ref(full.as_bstr())?
            };
            let found = found.ok_or_else(|| RequestError::UnknownRef { name: name.into() })?;
            wanted_refs.push((name.clone(), found.id));
        }
        check_wants(repo, &odb, ctx, &fetch.wants, WantPolicy::of(repo, ctx, v2))?;
        let mut wants = fetch.wants.clone();
        wants.extend(wanted_refs.iter().map(|(_, id)| *id));
        let repo_shallow = repo.shallow()?;
        Ok(Job {
            repo,
            ctx,
            odb,
            fetch,
            wants,
            wanted_refs,
            repo_shallow,
        })
    }

    /// Every boundary that a walk on behalf of this client must stop at.
    fn bounds(&self) -> Vec<ObjectId> {
        self.repo_shallow.iter().chain(&self.fetch.shallow).copied().collect()
    }

    /// Where the client's history will end. `None` when nobody is shallow.
    fn plan(&self) -> Result<Option<ShallowPlan>, ServiceError> {
        let plan = match &self.fetch.deepen {
            Some(Deepen::Depth { depth, relative: false }) => DeepenTo::Depth(depth.get()),
            Some(Deepen::Depth { depth, relative: true }) => DeepenTo::Relative(depth.get()),
            Some(Deepen::RevList { since, not }) => DeepenTo::RevList {
                since: *since,
                not: self.resolve_not(not)?,
            },
            // A shallow server has to say where its own history ends, before or behind where the client's ends now.
            None if !self.repo_shallow.is_empty() => DeepenTo::Depth(WHOLE_HISTORY),
            None => return Ok(None),
        };
        // Only a boundary that counts from the client's present one asks which of that is reachable.
        let tips: Vec<ObjectId> = match plan {
            DeepenTo::Relative(_) => {
                let hide = &self.repo.settings().hide_refs_upload;
                Visible::load(self.repo, self.ctx, hide, Vec::new(), false)?
                    .tips()
                    .collect()
            }
            _ => Vec::new(),
        };
        let (odb, client) = (&self.odb, &self.fetch.shallow);
        let stays = self.fetch.deepen.is_none();
        let ends = if stays {
            self.bounds()
        } else {
            self.repo_shallow.clone()
        };
        Ok(Some(plan_deepen(
            odb,
            &ends,
            &self.wants,
            &tips,
            client,
            &plan,
            self.ctx.stop,
        )?))
    }

    /// `deepen-not` names refs as a person would: the rules of gitrevisions(7) for names of refs.
    fn resolve_not(&self, names: &[BString]) -> Result<Vec<ObjectId>, ServiceError> {
        const RULES: [(&str, &str); 6] = [
            ("", ""),
            ("refs/", ""),
            ("refs/tags/", ""),
            ("refs/heads/", ""),
            ("refs/remotes/", ""),
            ("refs/remotes/", "/HEAD"),
        ];
        let hide = &self.repo.settings().hide_refs_upload;
        let mut ids = Vec::new();
        for name in names {
            let mut found = None;
            for (before, after) in RULES {
                let candidate: BString = [before.as_bytes(), name, after.as_bytes()].concat().into();
                let full = self.ctx.full_name(candidate.as_bstr());
                if hidden(self.ctx, hide, candidate.as_bstr()) {
                    continue;
                }
                if candidate == "HEAD" {
                    found = self.repo.head(self.ctx.namespace)?.id();
                } else if candidate.starts_with(b"refs/") {
                    found = self.repo.find_ref(full.as_bstr())?.map(|r| r.id);
                }
                if found.is_some() {
                    break;
                }
            }
            ids.push(found.ok_or_else(|| RequestError::AmbiguousDeepenNot { name: name.into() })?);
        }
        Ok(ids)
    }

    /// Selects the objects and writes the pack with all its progress. Band errors are for the caller.
    fn send_pack(
        &self,
        plan: Option<&ShallowPlan>,
        haves: &[ObjectId],
        leave_out: &[ObjectId],
        band: &mut Band<'_>,
    ) -> Result<(), ServiceError> {
        let settings = self.repo.settings();
        let filter = match &self.fetch.filter {
            Some(filter) => {
                let mut lookup = |spec: &BStr| Ok::<_, ServiceError>(self.sparse_blob(spec));
                Some(FilterPlan::resolve(filter, &mut lookup).map_err(|err| match err {
                    FilterResolveError::Lookup(err) => err,
                    other => ServiceError::Refused {
                        text: other.to_string(),
                    },
                })?)
            }
            None => None,
        };
        let tags = if self.fetch.include_tag {
            let query = vec!["refs/tags/".into()];
            let refs = Visible::load(self.repo, self.ctx, &settings.hide_refs_upload, query, true)?.refs;
            refs.iter().filter_map(|r| Some((r.id, r.peeled?))).collect()
        } else {
            Vec::new()
        };
        let request = SendRequest {
            wants: &self.wants,
            haves,
            client_shallow: &self.fetch.shallow,
            plan,
            filter: filter.as_ref(),
            include_tag: &tags,
            thin: self.fetch.thin_pack,
        };
        let options = PackOptions {
            ofs_delta: self.fetch.ofs_delta,
            thin: self.fetch.thin_pack,
            compression: settings.pack.compression,
        };
        let mut meter = Meter::new("Enumerating objects", None);
        let found = match (self.ctx.answers, self.question(&request, &options, leave_out)) {
            (Some(answers), Some(key)) => {
                let mut alive = || {
                    self.ctx.check()?;
                    meter.tick(band, 0).map_err(ServiceError::Write)
                };
                Some(answers.find(key, &self.odb, &mut alive)?)
            }
            _ => None,
        };
        let (set, promise) = match found {
            Some(Found::Whole(whole)) => {
                counted(band, meter, u64::from(whole.objects))?;
                band.write_all(&whole.pack).map_err(ServiceError::Write)?;
                band.say(&whole.summary).map_err(ServiceError::Write)?;
                return band.finish().map_err(ServiceError::Write);
            }
            Some(Found::Selected(set)) => (*set, None),
            nothing => {
                let set = self.select(&request, leave_out, band, &mut meter)?;
                let mut promise = match nothing {
                    Some(Found::Nothing(promise)) => promise,
                    _ => None,
                };
                if let Some(promise) = &mut promise {
                    promise.selected(&set);
                }
                (set, promise)
            }
        };
        counted(band, meter, u64::from(set.len()))?;
        let mut meter = Meter::new("Compressing objects", None);
        let mut tell = |done, total| {
            if total > 0 {
                meter.set_total(total);
            }
            // Who has gone is noticed when something is sent to him.
            let _ = meter.tick(band, done);
        };
        let anew = Anew::find(&self.odb, &set, &options, &mut tell, self.ctx.stop).map_err(gone_or)?;
        if !anew.is_empty() {
            let made = anew.len() as u64;
            meter.set_total(made);
            meter.done(band, made).map_err(ServiceError::Write)?;
        }
        // Bytes keep the connection alive, so nothing is said while they flow.
        let mut copy = Copy {
            out: band,
            kept: promise.is_some().then(Vec::new),
        };
        let stats =
            write_pack(&self.odb, &set, &options, anew, &mut copy, &mut |_| {}, self.ctx.stop).map_err(gone_or)?;
        let kept = copy.kept;
        let summary = format!(
            "Total {} (delta {}), reused {} (delta {}), pack-reused {} (from {})\n",
            stats.objects,
            stats.deltas,
            stats.reused,
            stats.deltas - stats.new_deltas,
            stats.reused,
            self.odb.packs().len()
        );
        band.say(&summary).map_err(ServiceError::Write)?;
        if let (Some(promise), Some(pack)) = (promise, kept) {
            promise.whole(Whole {
                pack,
                objects: stats.objects,
                summary,
            });
        }
        band.finish().map_err(ServiceError::Write)
    }

    /// Everything that the pack depends on but the objects themselves. `None` for what is not worth keeping.
    fn question(&self, request: &SendRequest<'_>, options: &PackOptions, leave_out: &[ObjectId]) -> Option<Key> {
        if !leave_out.is_empty() {
            return None;
        }
        let mut question = Question::new("pack");
        question.bytes(self.repo.common_dir().as_os_str().as_encoded_bytes());
        for ids in [request.wants, request.haves, request.client_shallow, &self.repo_shallow] {
            question.ids(ids);
        }
        if let Some(plan) = request.plan {
            question.number(1);
            question.ids(&plan.shallow);
            question.ids(&plan.unshallow);
        }
        if let Some(filter) = request.filter {
            question.number(2);
            filter.fingerprint()?.into_iter().for_each(|n| question.number(n));
        }
        question.number(request.include_tag.len() as u64);
        for (tag, target) in request.include_tag {
            question.bytes(tag.as_slice());
            question.bytes(target.as_slice());
        }
        question.number(u64::from(options.ofs_delta) | u64::from(options.thin) << 1);
        question.number(options.compression as u64);
        question.key()
    }

    /// Finds the objects to send.
    fn select(
        &self,
        request: &SendRequest<'_>,
        leave_out: &[ObjectId],
        band: &mut Band<'_>,
        meter: &mut Meter,
    ) -> Result<ObjectSet, ServiceError> {
        let mut gone = None;
        let mut progress = |count: u64| {
            if let Err(err) = meter.tick(band, count) {
                gone.get_or_insert(err);
                self.ctx.stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let set = enumerate(&self.odb, &self.repo_shallow, request, &mut progress, self.ctx.stop);
        if let Some(err) = gone {
            return Err(ServiceError::Write(err));
        }
        let mut set = set.map_err(gone_or)?;
        for id in leave_out {
            set.remove(&self.odb, id)?;
        }
        Ok(set)
    }

    /// The content of the blob that a `sparse:oid` filter names: by id, or as `<ref>:<path>`.
    fn sparse_blob(&self, spec: &BStr) -> Option<Vec<u8>> {
        let mut buf = Vec::new();
        let id = match Filter::sparse_id(spec) {
            Some(id) => id,
            None => {
                let (name, path) = spec.split_once_str(":")?;
                let tip = *self.resolve_not(&[name.into()]).ok()?.first()?;
                self.path_at(tip, path.as_bstr())?
            }
        };
        match self.odb.read(&id, &mut buf) {
            Ok(Some(gix::objs::Kind::Blob)) => Some(buf),
            _ => None,
        }
    }

    fn path_at(&self, tip: ObjectId, path: &BStr) -> Option<ObjectId> {
        use gix::objs::{CommitRefIter, Kind, TagRefIter, TreeRefIter};
        let mut buf = Vec::new();
        let mut id = tip;
        // A tag, its commit, its tree, and then a tree for every directory.
        for _ in 0..8 {
            match self.odb.read(&id, &mut buf).ok()?? {
                Kind::Tag => id = TagRefIter::from_bytes(&buf, self.repo.hash_kind()).target_id().ok()?,
                Kind::Commit => id = CommitRefIter::from_bytes(&buf, self.repo.hash_kind()).tree_id().ok()?,
                Kind::Tree => break,
                Kind::Blob => return None,
            }
        }
        for part in path.split_str("/") {
            if self.odb.read(&id, &mut buf).ok()?? != Kind::Tree {
                return None;
            }
            id = TreeRefIter::from_bytes(&buf, self.repo.hash_kind())
                .filter_map(Result::ok)
                .find(|entry| entry.filename == part)?
                .oid
                .to_owned();
        }
        Some(id)
    }

    fn band<'o>(&self, out: &'o mut dyn Write) -> Band<'o> {
        let keep_alive = self
            .repo
            .settings()
            .uploadpack
            .keep_alive
            .map(|after| (after, Channel::Data));
        Band::new(out, self.fetch.sideband, !self.fetch.no_progress, keep_alive)
    }
}

/// Tells how many objects there are, as git does.
fn counted(band: &mut Band<'_>, enumerated: Meter, total: u64) -> Result<(), ServiceError> {
    enumerated.done(band, total).map_err(ServiceError::Write)?;
    Meter::new("Counting objects", Some(total))
        .done(band, total)
        .map_err(ServiceError::Write)
}

/// Keeps what is written, while it is little.
struct Copy<'a, 'o> {
    out: &'a mut Band<'o>,
    kept: Option<Vec<u8>>,
}

impl Write for Copy<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.kept = self
            .kept
            .take()
            .filter(|kept| kept.len() + written <= WHOLE)
            .map(|mut kept| {
                kept.extend_from_slice(&bytes[..written]);
                kept
            });
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// The pack was begun: from here on errors go on the error channel.
fn broken(band: &mut Band<'_>, err: ServiceError) -> ServiceError {
    if !err.is_gone() {
        // Nothing more can be done for a client that is not there to read it.
        let _ = band.error(&format!("upload-pack: {}\n", err.public_text()));
    }
    err
}

fn fetch_v2(repo: &Repository, ctx: &Context<'_>, fetch: &Fetch, out: &mut dyn Write) -> Result<(), ServiceError> {
    let mut buf = Vec::new();
    let mut reply = FetchReply::new(fetch.sideband_all);
    let prepared = prepare_v2(repo, ctx, fetch, &mut reply, &mut buf);
    let (job, common, plan, uris) = match prepared {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return put(out, &mut buf).and_then(|()| out.flush().map_err(ServiceError::Write)),
        Err(err) if err.is_gone() => return Err(err),
        Err(err) => {
            buf.clear();
            reply.error(&err.public_text(), &mut buf);
            put(out, &mut buf)?;
            out.flush().map_err(ServiceError::Write)?;
            return Err(err);
        }
    };
    put(out, &mut buf)?;
    let mut band = job.band(out);
    job.send_pack(plan.as_ref(), &common, &uris, &mut band)
        .map_err(|err| broken(&mut band, err))
}

type Prepared<'a> = (Job<'a>, Vec<ObjectId>, Option<ShallowPlan>, Vec<ObjectId>);

/// Everything before the pack. `None` when no pack is due in this round.
fn prepare_v2<'a>(
    repo: &'a Repository,
    ctx: &'a Context<'a>,
    fetch: &'a Fetch,
    reply: &mut FetchReply,
    buf: &mut Vec<u8>,
) -> Result<Option<Prepared<'a>>, ServiceError> {
    let job = Job::new(repo, ctx, fetch, true)?;
    if job.wants.is_empty() && !fetch.wait_for_done {
        // Someone who wants nothing gets nothing, not even a flush.
        return Ok(None);
    }
    let bounds = job.bounds();
    let mut negotiation = Negotiation::new(&job.odb, &job.wants, &bounds, ctx.stop);
    for id in &fetch.haves {
        negotiation.have(id)?;
    }
    if !fetch.haves.is_empty() && !fetch.done {
        reply.section(Section::Acknowledgments, buf);
        if negotiation.common.is_empty() {
            reply.nak(buf);
        }
        for id in &negotiation.common {
            reply.ack(id, buf);
        }
        if fetch.wait_for_done || !negotiation.enough()? {
            flush(buf);
            return Ok(None);
        }
        reply.ready(buf);
    }
    if job.wants.is_empty() {
        return Ok(None);
    }
    let common = negotiation.common;
    let plan = job.plan()?;
    if fetch.deepen.is_some() || !fetch.shallow.is_empty() || !job.repo_shallow.is_empty() {
        reply.section(Section::ShallowInfo, buf);
        if let Some(plan) = &plan {
            for id in &plan.shallow {
                reply.shallow(id, buf);
            }
            for id in &plan.unshallow {
                reply.unshallow(id, buf);
            }
        }
    }
    if !job.wanted_refs.is_empty() {
        reply.section(Section::WantedRefs, buf);
        for (name, id) in &job.wanted_refs {
            reply.wanted_ref(id, name.as_bstr(), buf);
        }
    }
    let uris = packfile_uris(&job, reply, buf);
    reply.section(Section::Packfile, buf);
    Ok(Some((job, common, plan, uris)))
}

/// Tells which packs the client can fetch elsewhere, and returns the objects that are left out of ours for it.
fn packfile_uris(job: &Job<'_>, reply: &mut FetchReply, buf: &mut Vec<u8>) -> Vec<ObjectId> {
    let mut left_out = Vec::new();
    for entry in &job.repo.settings().uploadpack.blob_packfile_uris {
        let scheme = |scheme: &BString| {
            entry
                .uri
                .strip_prefix(scheme.as_slice())
                .is_some_and(|rest| rest.starts_with(b"://"))
        };
        // What the client asks for by name it gets from us, and an object that is not here cannot be left out.
        let ours = job.wants.contains(&entry.object) || !job.odb.contains(&entry.object).unwrap_or(false);
        if job.fetch.packfile_uris.iter().any(scheme) && !ours {
            if left_out.is_empty() {
                reply.section(Section::PackfileUris, buf);
            }
            reply.packfile_uri(&entry.pack.to_string(), entry.uri.as_bstr(), buf);
            left_out.push(entry.object);
        }
    }
    left_out
}

fn upload_v0(
    repo: &Repository,
    ctx: &Context<'_>,
    mut input: Input<'_>,
    out: &mut dyn Write,
) -> Result<(), ServiceError> {
    let parser = FetchV0Parser::new(repo.hash_kind(), repo.settings().uploadpack.allow_filter);
    let request = match input.request(parser, ctx.limits) {
        Ok(request) => request,
        Err(err) => return Err(refuse(out, err)),
    };
    let fetch = &request.fetch;
    if fetch.wants.is_empty() {
        return Ok(());
    }
    let mut buf = Vec::new();
    let prepared = prepare_v0(repo, ctx, fetch, request.end, &mut buf);
    let (job, common, plan) = match prepared {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return put(out, &mut buf).and_then(|()| out.flush().map_err(ServiceError::Write)),
        Err(err) => return Err(refuse(out, err)),
    };
    put(out, &mut buf)?;
    if fetch.sideband == Sideband::None {
        // There is no place for an error behind the first byte of a bare pack: the connection just ends.
        let mut band = job.band(out);
        return job.send_pack(plan.as_ref(), &common, &[], &mut band);
    }
    let mut band = job.band(out);
    job.send_pack(plan.as_ref(), &common, &[], &mut band)
        .map_err(|err| broken(&mut band, err))
}

type PreparedV0<'a> = (Job<'a>, Vec<ObjectId>, Option<ShallowPlan>);

fn prepare_v0<'a>(
    repo: &'a Repository,
    ctx: &'a Context<'a>,
    fetch: &'a Fetch,
    end: FetchEnd,
    buf: &mut Vec<u8>,
) -> Result<Option<PreparedV0<'a>>, ServiceError> {
    let job = Job::new(repo, ctx, fetch, false)?;
    // A version 0 client learned of a shallow server's boundary from the advertisement.
    let plan = if fetch.deepen.is_some() { job.plan()? } else { None };
    if let Some(plan) = &plan {
        shallow_update(&plan.shallow, &plan.unshallow, buf);
    }
    if end == FetchEnd::Eof {
        return Ok(None);
    }
    let bounds = job.bounds();
    let mut negotiation = Negotiation::new(&job.odb, &job.wants, &bounds, ctx.stop);
    if !negotiation.answer_v0(fetch, end, buf)? {
        return Ok(None);
    }
    let common = negotiation.common;
    Ok(Some((job, common, plan)))
}
