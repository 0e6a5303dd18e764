use std::{
    collections::{BTreeSet, HashSet},
    io::{self, Write},
};

use crate::{
    base::Version,
    protocol::{
        AdvertV0, ReceiveCapabilities, UploadCapabilities, V2Capabilities, V2Features, advertise_v2, service_header,
    },
    repo::{Head, Repository, Settings, Unborn},
};

use super::{Context, Service, ServiceError, context::agent, receive::push_cert_nonce, wants::Visible};

/// Bytes collected before they are handed on.
const CHUNK: usize = 32 * 1024;

/// What version 2 offers in this repository; the request parser goes by the same value.
pub(super) fn v2_features(settings: &Settings) -> V2Features {
    V2Features {
        allow_filter: settings.uploadpack.allow_filter,
        allow_ref_in_want: settings.uploadpack.allow_ref_in_want,
        allow_sideband_all: settings.uploadpack.allow_sideband_all,
        allow_packfile_uris: !settings.uploadpack.blob_packfile_uris.is_empty(),
        object_info: settings.transfer.advertise_object_info,
        bundle_uri: settings.uploadpack.advertise_bundle_uris,
        unborn: settings.lsrefs_unborn != Unborn::Ignore,
        session_id: settings.transfer.advertise_sid,
    }
}

/// Writes the answer to `GET info/refs?service=…`, the `# service` line included where the version has one.
///
/// Version 2 exists for upload-pack only; a push is answered in version 0 or 1.
///
/// # Errors
/// Nothing has been written when refs cannot be read. `Write` when the client has gone.
pub fn advertise(
    repo: &Repository,
    service: Service,
    version: Version,
    ctx: &Context<'_>,
    out: &mut dyn Write,
) -> Result<(), ServiceError> {
    match (service, version) {
        (Service::UploadPack, Version::V2) => advertise_capabilities(repo, ctx, out),
        (Service::UploadPack, version) => advertise_upload(repo, version, ctx, out),
        (Service::ReceivePack, version) => advertise_receive(repo, v0_of(version), ctx, out),
    }
}

fn v0_of(version: Version) -> Version {
    if version == Version::V2 { Version::V0 } else { version }
}

/// Hands on the rest.
pub(super) fn finish(out: &mut dyn Write, buf: &[u8]) -> Result<(), ServiceError> {
    out.write_all(buf)
        .and_then(|()| out.flush())
        .map_err(ServiceError::Write)
}

fn advertise_capabilities(repo: &Repository, ctx: &Context<'_>, out: &mut dyn Write) -> Result<(), ServiceError> {
    let settings = repo.settings();
    let features = v2_features(settings);
    let capabilities = V2Capabilities {
        agent: agent(),
        ls_refs_unborn: settings.lsrefs_unborn == Unborn::Advertise,
        filter: features.allow_filter,
        ref_in_want: features.allow_ref_in_want,
        sideband_all: features.allow_sideband_all,
        packfile_uris: features.allow_packfile_uris,
        object_format: repo.hash_kind(),
        session_id: session_id(settings, ctx),
        object_info: features.object_info,
        bundle_uri: features.bundle_uri,
    };
    let mut buf = Vec::new();
    advertise_v2(&capabilities, &mut buf);
    finish(out, &buf)
}

fn session_id(settings: &Settings, ctx: &Context<'_>) -> Option<String> {
    settings.transfer.advertise_sid.then(|| ctx.session_id.to_owned())
}

/// Collects lines and hands them on a chunk at a time.
pub(super) struct Lines<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) buf: Vec<u8>,
}

impl Lines<'_> {
    pub(super) fn passed(&mut self) -> io::Result<()> {
        if self.buf.len() >= CHUNK {
            self.out.write_all(&self.buf)?;
            self.buf.clear();
        }
        Ok(())
    }
}

fn advertise_upload(
    repo: &Repository,
    version: Version,
    ctx: &Context<'_>,
    out: &mut dyn Write,
) -> Result<(), ServiceError> {
    let settings = repo.settings();
    let visible = Visible::load(repo, ctx, &settings.hide_refs_upload, Vec::new(), true)?;
    let shallow = repo.shallow()?;
    let symrefs = match &visible.head {
        Head::Symbolic { target, id: Some(_) } => vec![("HEAD".into(), target.clone())],
        _ => Vec::new(),
    };
    let capabilities = UploadCapabilities {
        allow_tip_sha1_in_want: settings.uploadpack.allow_tip_sha1_in_want,
        allow_reachable_sha1_in_want: settings.uploadpack.allow_reachable_sha1_in_want,
        no_done: true,
        symrefs,
        filter: settings.uploadpack.allow_filter,
        session_id: session_id(settings, ctx),
        object_format: repo.hash_kind(),
        agent: agent(),
    };
    let mut lines = Lines { out, buf: Vec::new() };
    service_header(Service::UploadPack.name(), &mut lines.buf);
    let mut advert = AdvertV0::upload(&capabilities, version, &mut lines.buf);
    if let Some(id) = visible.head.id() {
        advert.reference("HEAD".into(), id, None, &mut lines.buf);
    }
    for r in &visible.refs {
        advert.reference(r.name.as_ref(), r.id, r.peeled, &mut lines.buf);
        lines.passed().map_err(ServiceError::Write)?;
    }
    advert.finish(&shallow, &mut lines.buf);
    finish(lines.out, &lines.buf)
}

fn advertise_receive(
    repo: &Repository,
    version: Version,
    ctx: &Context<'_>,
    out: &mut dyn Write,
) -> Result<(), ServiceError> {
    let settings = repo.settings();
    let visible = Visible::load(repo, ctx, &settings.hide_refs_receive, Vec::new(), false)?;
    let shallow = repo.shallow()?;
    let capabilities = ReceiveCapabilities {
        atomic: settings.receive.advertise_atomic,
        ofs_delta: settings.pack.use_delta_base_offset,
        push_cert_nonce: push_cert_nonce(repo, ctx),
        push_options: settings.receive.advertise_push_options,
        session_id: session_id(settings, ctx),
        object_format: repo.hash_kind(),
        agent: agent(),
    };
    let mut lines = Lines { out, buf: Vec::new() };
    service_header(Service::ReceivePack.name(), &mut lines.buf);
    let mut advert = AdvertV0::receive(&capabilities, version, &mut lines.buf);
    // `.have` first, as git does: tips of alternates, which spare the client from sending objects. What is hidden is not told under this name either.
    if ctx.namespace.is_none() {
        let shown: HashSet<_> = visible.refs.iter().map(|r| r.id).collect();
        let told: BTreeSet<_> = repo
            .alternate_tips()
            .into_iter()
            .filter(|id| !shown.contains(id))
            .collect();
        for id in told {
            advert.have(id, &mut lines.buf);
            lines.passed().map_err(ServiceError::Write)?;
        }
    }
    for r in &visible.refs {
        advert.reference(r.name.as_ref(), r.id, None, &mut lines.buf);
        lines.passed().map_err(ServiceError::Write)?;
    }
    advert.finish(&shallow, &mut lines.buf);
    finish(lines.out, &lines.buf)
}
