use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bstr::{BStr, BString, ByteSlice};
use gix::{
    filter::plumbing::eol::{AutoCrlf, Mode as EolMode},
    hash::ObjectId,
};

use super::{
    config::{BadValue, Config, bad, parse_bool},
    hidden::HideRefs,
    refs::{LogRefUpdates, SharedRepository},
    repack::GcSettings,
};
use crate::base::Filter;

/// What the repository's own `config` says, every key with git's default (git-config(1)). Server-wide defaults lie underneath; the user's and the system's
/// files are never read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// `transfer.hideRefs` and `uploadpack.hideRefs`.
    pub hide_refs_upload: HideRefs,
    /// `transfer.hideRefs` and `receive.hideRefs`.
    pub hide_refs_receive: HideRefs,
    /// `uploadpack.*`
    pub uploadpack: UploadPackSettings,
    /// `uploadpackfilter.*`
    pub filters: FilterSettings,
    /// `lsrefs.unborn`
    pub lsrefs_unborn: Unborn,
    /// Every `bundle.*` key with its value, in the order of the file: what `bundle-uri` sends.
    pub bundle: Vec<(BString, BString)>,
    /// `receive.*`
    pub receive: ReceiveSettings,
    /// `transfer.*`
    pub transfer: TransferSettings,
    /// `http.*`
    pub http: HttpSettings,
    /// `core.*`
    pub core: CoreSettings,
    /// `pack.*` and `repack.*`
    pub pack: PackSettings,
    /// `extensions.preciousObjects` (false): nothing that holds objects may be deleted, whatever has been copied.
    pub precious_objects: bool,
    /// `gc.*` and what else maintenance asks.
    pub gc: GcSettings,
    /// `maintenance.auto` (true), unless `gc.auto` is 0: whether it is compacted when it wants to be.
    pub maintenance_auto: bool,
    config: Config,
}

/// `uploadpack.*`
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UploadPackSettings {
    /// `allowTipSHA1InWant` (false), also set by `allowAnySHA1InWant`.
    pub allow_tip_sha1_in_want: bool,
    /// `allowReachableSHA1InWant` (false), also set by `allowAnySHA1InWant`.
    pub allow_reachable_sha1_in_want: bool,
    /// `allowAnySHA1InWant` (false).
    pub allow_any_sha1_in_want: bool,
    /// `keepAlive` (5 s); `None` is off.
    pub keep_alive: Option<Duration>,
    /// `allowFilter` (false).
    pub allow_filter: bool,
    /// `allowRefInWant` (false).
    pub allow_ref_in_want: bool,
    /// `allowSidebandAll` (false).
    pub allow_sideband_all: bool,
    /// `advertiseBundleURIs` (false).
    pub advertise_bundle_uris: bool,
    /// `blobPackfileUri`, one for each line `<object> <pack> <uri>`.
    pub blob_packfile_uris: Vec<PackfileUri>,
}

/// One `uploadpack.blobPackfileUri`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackfileUri {
    /// The blob that is left out of our pack.
    pub object: ObjectId,
    /// The checksum of the pack that is to be fetched instead.
    pub pack: ObjectId,
    /// Where that pack is.
    pub uri: BString,
}

/// `uploadpackfilter.*`: which partial-clone filters clients may use once `uploadpack.allowFilter` is on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FilterSettings {
    /// `allow` (true).
    pub allow: bool,
    /// `<filter>.allow`, keyed by the filter's name as [`Filter::config_name`] gives it.
    pub by_name: BTreeMap<String, bool>,
    /// `tree.maxDepth` (unlimited).
    pub tree_max_depth: Option<u64>,
}

/// `lsrefs.unborn`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unborn {
    /// Announced and answered.
    #[default]
    Advertise,
    /// Answered, not announced.
    Allow,
    /// Neither.
    Ignore,
}

/// What `receive.denyDeleteCurrent` and `receive.denyCurrentBranch` do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// Nothing.
    Ignore,
    /// A warning on the progress channel.
    Warn,
    /// The command fails.
    Refuse,
    /// The working tree follows (`denyCurrentBranch` only).
    UpdateInstead,
}

/// `receive.*`
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceiveSettings {
    /// `advertiseAtomic` (true).
    pub advertise_atomic: bool,
    /// `advertisePushOptions` (false).
    pub advertise_push_options: bool,
    /// `certNonceSeed` (none); present means that push certificates are taken.
    pub cert_nonce_seed: Option<BString>,
    /// `certNonceSlop` (0 s).
    pub cert_nonce_slop: Duration,
    /// `fsckObjects`, else `transfer.fsckObjects`. `None` when neither is set.
    pub fsck_objects: Option<bool>,
    /// `fsck.<msg-id>` but `skipList`: ids in lower case with the severity as written, in the order of the file. Unknown ids and severities are the checker's
    /// business.
    pub fsck: Vec<(String, BString)>,
    /// `fsck.skipList`, relative paths resolved against the git directory.
    pub fsck_skip_list: Vec<PathBuf>,
    /// `keepAlive` (5 s); `None` is off.
    pub keep_alive: Option<Duration>,
    /// `unpackLimit`, else `transfer.unpackLimit` (100).
    pub unpack_limit: u32,
    /// `maxInputSize` in bytes; `None` is unlimited.
    pub max_input_size: Option<u64>,
    /// `denyDeletes` (false).
    pub deny_deletes: bool,
    /// `denyDeleteCurrent` (refuse).
    pub deny_delete_current: Deny,
    /// `denyCurrentBranch` (refuse).
    pub deny_current_branch: Deny,
    /// `denyNonFastForwards` (false).
    pub deny_non_fast_forwards: bool,
    /// `shallowUpdate` (false).
    pub shallow_update: bool,
    /// `gitstead.keepReplaced` (false): what a push takes away from a branch or a tag, by force or by deleting it, stays below `refs/gitstead/replaced/`.
    pub keep_replaced: bool,
}

/// `transfer.*`
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TransferSettings {
    /// `advertiseSID` (false).
    pub advertise_sid: bool,
    /// `advertiseObjectInfo` (false).
    pub advertise_object_info: bool,
}

/// `http.*`, the server's side (git-http-backend(1)).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HttpSettings {
    /// `getanyfile`: the dumb protocol. Unset means yes where no ref is hidden: whoever may read any file may read what is hidden.
    pub get_any_file: Option<bool>,
    /// `uploadpack` (true).
    pub upload_pack: bool,
    /// `receivepack`: unset means only for users who are known.
    pub receive_pack: Option<bool>,
    /// `maxRequestBuffer` in bytes; `None` when not set.
    pub max_request_buffer: Option<u64>,
}

/// The mode a file or directory must have under `core.sharedRepository` that would have `mode` by the umask alone. Directories also get the set-group-id bit
/// when the repository is shared; files that nobody may write (objects, packs) stay so.
pub fn shared_mode(shared: SharedRepository, mode: u32, is_dir: bool) -> u32 {
    let bits = match shared {
        SharedRepository::Umask => return mode,
        SharedRepository::Group => mode | 0o660,
        SharedRepository::Everybody => mode | 0o664,
        SharedRepository::Mode(bits) => (mode & !0o777) | bits,
    };
    let bits = if mode & 0o200 == 0 { bits & !0o222 } else { bits };
    if is_dir {
        // Who may read a directory may enter it.
        bits | ((bits & 0o444) >> 2) | 0o2000
    } else {
        bits
    }
}

/// `core.*`
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CoreSettings {
    /// `bare`, if said.
    pub bare: Option<bool>,
    /// `logAllRefUpdates`, if said; unset means [`LogRefUpdates::Branches`] with a working tree and `Never` without.
    pub log_all_ref_updates: Option<LogRefUpdates>,
    /// `sharedRepository`
    pub shared_repository: SharedRepository,
    /// `looseCompression`, else `compression` (1 when neither is set): a zlib level, −1 is zlib's own default.
    pub loose_compression: i32,
    /// `filesRefLockTimeout` (100 ms); `None` waits for ever.
    pub files_ref_lock_timeout: Option<Duration>,
    /// `packedRefsTimeout` (1 s); `None` waits for ever.
    pub packed_refs_timeout: Option<Duration>,
    /// `alternateRefsPrefixes`, split at spaces. `alternateRefsCommand` is never run.
    pub alternate_refs_prefixes: Vec<BString>,
    /// `commitGraph` (true).
    pub commit_graph: bool,
    /// `multiPackIndex` (true).
    pub multi_pack_index: bool,
    /// `ignoreCase` (false)
    pub ignore_case: bool,
    /// `fileMode` (true): whether the executable bit of a file means something.
    pub file_mode: bool,
    /// `protectHFS` (false): whether names count as `.git` that are taken for it on macOS.
    pub protect_hfs: bool,
    /// `protectNTFS` (true): likewise on Windows.
    pub protect_ntfs: bool,
    /// `autocrlf` (false)
    pub auto_crlf: AutoCrlf,
    /// `eol`, if it says anything but `native`.
    pub eol: Option<EolMode>,
    /// `bigFileThreshold` in bytes (512 MiB): larger objects are never made deltas.
    pub big_file_threshold: u64,
    /// `index.version` (2; 4 with `feature.manyFiles`): of an index where there was none.
    pub index_version: u32,
    /// `index.skipHash` (false; true with `feature.manyFiles`): an index ends in zeros, not in a checksum.
    pub index_skip_hash: bool,
}

/// `pack.*` and `repack.*`
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PackSettings {
    /// `pack.compression`, else `core.compression` (−1): a zlib level, −1 is zlib's own default.
    pub compression: i32,
    /// `pack.readReverseIndex` (true).
    pub read_reverse_index: bool,
    /// `pack.useBitmaps` (true).
    pub use_bitmaps: bool,
    /// `pack.writeReverseIndex` (true).
    pub write_reverse_index: bool,
    /// `pack.threads`; `None` is our own choice.
    pub threads: Option<u32>,
    /// `repack.useDeltaBaseOffset` (true): receive-pack announces `ofs-delta`.
    pub use_delta_base_offset: bool,
}

/// Why a filter is refused, with the words of C git.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterRefused {
    /// `uploadpackfilter.<name>.allow` is off.
    #[error("filter '{name}' not supported")]
    NotAllowed {
        /// The filter's name.
        name: &'static str,
    },
    /// Deeper than `uploadpackfilter.tree.maxDepth`.
    #[error("tree filter allows max depth {max}, but got {depth}")]
    TooDeep {
        /// The configured bound.
        max: u64,
        /// What was asked for.
        depth: u64,
    },
}

impl FilterSettings {
    /// Whether a client may use `filter`, its parts included.
    pub fn check(&self, filter: &Filter) -> Result<(), FilterRefused> {
        let name = filter.config_name();
        if !self.by_name.get(name).copied().unwrap_or(self.allow) {
            return Err(FilterRefused::NotAllowed { name });
        }
        match (filter, self.tree_max_depth) {
            (Filter::TreeDepth(depth), Some(max)) if *depth > max => Err(FilterRefused::TooDeep { max, depth: *depth }),
            (Filter::Combine(parts), _) => parts.iter().try_for_each(|part| self.check(part)),
            _ => Ok(()),
        }
    }
}

impl Settings {
    /// Gives meaning to `config`. `git_dir` is what relative paths in it are relative to.
    pub(crate) fn new(config: Config, git_dir: &std::path::Path) -> Result<Settings, BadValue> {
        let c = &config;
        let flag = |key: &str, default: bool| Ok::<_, BadValue>(c.boolean(key)?.unwrap_or(default));
        let hide = |section: &str| Ok::<_, BadValue>(HideRefs::new(c.strings_of(&["transfer.hiderefs", section])?));
        let hide_refs_upload = hide("uploadpack.hiderefs")?;
        let hide_refs_receive = hide("receive.hiderefs")?;
        let any = flag("uploadpack.allowanysha1inwant", false)?;
        let uploadpack = UploadPackSettings {
            allow_tip_sha1_in_want: flag("uploadpack.allowtipsha1inwant", false)? || any,
            allow_reachable_sha1_in_want: flag("uploadpack.allowreachablesha1inwant", false)? || any,
            allow_any_sha1_in_want: any,
            keep_alive: seconds(c, "uploadpack.keepalive", 5)?,
            allow_filter: flag("uploadpack.allowfilter", false)?,
            allow_ref_in_want: flag("uploadpack.allowrefinwant", false)?,
            allow_sideband_all: flag("uploadpack.allowsidebandall", false)?,
            advertise_bundle_uris: flag("uploadpack.advertisebundleuris", false)?,
            blob_packfile_uris: c
                .strings_of(&["uploadpack.blobpackfileuri"])?
                .into_iter()
                .map(packfile_uri)
                .collect::<Result<_, _>>()?,
        };
        let filters = filters(c)?;
        let lsrefs_unborn = match c.string("lsrefs.unborn")? {
            None => Unborn::Advertise,
            Some(v) if v == "advertise" => Unborn::Advertise,
            Some(v) if v == "allow" => Unborn::Allow,
            Some(v) if v == "ignore" => Unborn::Ignore,
            other => return Err(bad(b"lsrefs.unborn", "lsrefs.unborn", other)),
        };
        let bundle = c
            .below("bundle.")
            .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
            .collect();
        let receive = receive(c, git_dir)?;
        let transfer = TransferSettings {
            advertise_sid: flag("transfer.advertisesid", false)?,
            advertise_object_info: flag("transfer.advertiseobjectinfo", false)?,
        };
        let http = HttpSettings {
            get_any_file: c.boolean("http.getanyfile")?,
            upload_pack: flag("http.uploadpack", true)?,
            receive_pack: c.boolean("http.receivepack")?,
            max_request_buffer: c.number("http.maxrequestbuffer")?,
        };
        let compression = level(c, "core.compression")?;
        let core = core(c, compression)?;
        let pack = PackSettings {
            compression: level(c, "pack.compression")?.or(compression).unwrap_or(-1),
            read_reverse_index: flag("pack.readreverseindex", true)?,
            use_bitmaps: flag("pack.usebitmaps", true)?,
            write_reverse_index: flag("pack.writereverseindex", true)?,
            threads: c.number::<u32>("pack.threads")?.filter(|n| *n != 0),
            use_delta_base_offset: flag("repack.usedeltabaseoffset", true)?,
        };
        let gc_auto: Option<i64> = c.number("gc.auto")?;
        let gc = GcSettings::new(c)?;
        let maintenance_auto = flag("maintenance.auto", true)? && gc_auto != Some(0);
        Ok(Settings {
            hide_refs_upload,
            hide_refs_receive,
            uploadpack,
            filters,
            lsrefs_unborn,
            bundle,
            receive,
            transfer,
            http,
            core,
            pack,
            precious_objects: c.boolean("extensions.preciousobjects")?.unwrap_or(false),
            gc,
            maintenance_auto,
            config,
        })
    }

    /// The last value of any key, by its name as in `git config --get`: `Some(None)` for a key without `=`.
    pub fn get(&self, key: &str) -> Option<Option<&BStr>> {
        self.config.last(key)
    }
}

fn seconds(c: &Config, key: &str, default: u32) -> Result<Option<Duration>, BadValue> {
    // Negative numbers turn it off, as 0 does.
    let n: i64 = c.number(key)?.unwrap_or(i64::from(default));
    Ok(u64::try_from(n).ok().filter(|n| *n > 0).map(Duration::from_secs))
}

/// Milliseconds to wait for a lock; negative waits for ever.
fn timeout(c: &Config, key: &str, default: i64) -> Result<Option<Duration>, BadValue> {
    let n: i64 = c.number(key)?.unwrap_or(default);
    Ok(u64::try_from(n).ok().map(Duration::from_millis))
}

fn level(c: &Config, key: &str) -> Result<Option<i32>, BadValue> {
    match c.number::<i32>(key)? {
        Some(n) if !(-1..=9).contains(&n) => Err(bad(key.as_bytes(), "zlib compression level", c.last(key).flatten())),
        other => Ok(other),
    }
}

fn filters(c: &Config) -> Result<FilterSettings, BadValue> {
    let mut by_name = BTreeMap::new();
    for (key, value) in c.below("uploadpackfilter.") {
        let Some(name) = key
            .strip_prefix(b"uploadpackfilter.")
            .and_then(|rest| rest.strip_suffix(b".allow"))
        else {
            continue;
        };
        let allow = parse_bool(value).ok_or_else(|| bad(key, "boolean", value))?;
        by_name.insert(name.to_str_lossy().into_owned(), allow);
    }
    Ok(FilterSettings {
        allow: c.boolean("uploadpackfilter.allow")?.unwrap_or(true),
        by_name,
        tree_max_depth: c.number("uploadpackfilter.tree.maxdepth")?,
    })
}

fn packfile_uri(line: &BStr) -> Result<PackfileUri, BadValue> {
    let wrong = || {
        bad(
            b"uploadpack.blobpackfileuri",
            "'<object-hash> <pack-hash> <uri>'",
            Some(line),
        )
    };
    let mut parts = line.splitn(3, |b| *b == b' ');
    let mut id = || parts.next().and_then(|hex| ObjectId::from_hex(hex).ok());
    let (object, pack) = (id().ok_or_else(wrong)?, id().ok_or_else(wrong)?);
    let uri = parts.next().filter(|uri| !uri.is_empty()).ok_or_else(wrong)?;
    Ok(PackfileUri {
        object,
        pack,
        uri: uri.into(),
    })
}

fn deny(c: &Config, key: &str, update_instead: bool) -> Result<Deny, BadValue> {
    let Some(value) = c.last(key) else {
        return Ok(Deny::Refuse);
    };
    // A key without a value is `ignore` here; so says git's receive-pack, unlike its booleans.
    let Some(word) = value else { return Ok(Deny::Ignore) };
    let is = |wanted: &str| word.eq_ignore_ascii_case(wanted.as_bytes());
    if is("ignore") {
        Ok(Deny::Ignore)
    } else if is("warn") {
        Ok(Deny::Warn)
    } else if is("refuse") {
        Ok(Deny::Refuse)
    } else if update_instead && is("updateInstead") {
        Ok(Deny::UpdateInstead)
    } else {
        match parse_bool(value) {
            Some(true) => Ok(Deny::Refuse),
            Some(false) => Ok(Deny::Ignore),
            None => Err(bad(key.as_bytes(), "boolean", value)),
        }
    }
}

fn receive(c: &Config, git_dir: &std::path::Path) -> Result<ReceiveSettings, BadValue> {
    let flag = |key: &str, default: bool| Ok::<_, BadValue>(c.boolean(key)?.unwrap_or(default));
    let (mut fsck, mut fsck_skip_list) = (Vec::new(), Vec::new());
    for (key, value) in c.below("receive.fsck.") {
        let id = key["receive.fsck.".len()..].to_str_lossy().into_owned();
        let value = value.ok_or_else(|| bad(key, "string", None))?;
        if id == "skiplist" {
            let path = gix::path::from_bstr(value).map_err(|_| bad(key, "path", Some(value)))?;
            fsck_skip_list.push(git_dir.join(path));
        } else {
            fsck.push((id, value.to_owned()));
        }
    }
    let unpack_limit = match c.number::<i64>("receive.unpacklimit")? {
        Some(n) if n >= 0 => Some(n),
        _ => c.number::<i64>("transfer.unpacklimit")?.filter(|n| *n >= 0),
    };
    Ok(ReceiveSettings {
        advertise_atomic: flag("receive.advertiseatomic", true)?,
        advertise_push_options: flag("receive.advertisepushoptions", false)?,
        cert_nonce_seed: c.string("receive.certnonceseed")?.map(BStr::to_owned),
        cert_nonce_slop: Duration::from_secs(c.number("receive.certnonceslop")?.unwrap_or(0)),
        fsck_objects: match c.boolean("receive.fsckobjects")? {
            None => c.boolean("transfer.fsckobjects")?,
            some => some,
        },
        fsck,
        fsck_skip_list,
        keep_alive: seconds(c, "receive.keepalive", 5)?,
        unpack_limit: unpack_limit.map_or(100, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        max_input_size: c.number::<u64>("receive.maxinputsize")?.filter(|n| *n != 0),
        deny_deletes: flag("receive.denydeletes", false)?,
        deny_delete_current: deny(c, "receive.denydeletecurrent", false)?,
        deny_current_branch: deny(c, "receive.denycurrentbranch", true)?,
        deny_non_fast_forwards: flag("receive.denynonfastforwards", false)?,
        shallow_update: flag("receive.shallowupdate", false)?,
        keep_replaced: flag("gitstead.keepreplaced", false)?,
    })
}

fn core(c: &Config, compression: Option<i32>) -> Result<CoreSettings, BadValue> {
    let flag = |key: &str, default: bool| Ok::<_, BadValue>(c.boolean(key)?.unwrap_or(default));
    let many_files = flag("feature.manyfiles", false)?;
    Ok(CoreSettings {
        bare: c.boolean("core.bare")?,
        log_all_ref_updates: match c.last("core.logallrefupdates") {
            None => None,
            Some(Some(v)) if v.eq_ignore_ascii_case(b"always") => Some(LogRefUpdates::Always),
            Some(v) => match parse_bool(v).ok_or_else(|| bad(b"core.logallrefupdates", "boolean", v))? {
                true => Some(LogRefUpdates::Branches),
                false => Some(LogRefUpdates::Never),
            },
        },
        shared_repository: shared(c.last("core.sharedrepository"))?,
        loose_compression: level(c, "core.loosecompression")?.or(compression).unwrap_or(1),
        files_ref_lock_timeout: timeout(c, "core.filesreflocktimeout", 100)?,
        packed_refs_timeout: timeout(c, "core.packedrefstimeout", 1_000)?,
        alternate_refs_prefixes: c
            .string("core.alternaterefsprefixes")?
            .map(|v| v.fields().map(BString::from).collect())
            .unwrap_or_default(),
        commit_graph: flag("core.commitgraph", true)?,
        multi_pack_index: flag("core.multipackindex", true)?,
        ignore_case: flag("core.ignorecase", false)?,
        file_mode: flag("core.filemode", true)?,
        protect_hfs: flag("core.protecthfs", false)?,
        protect_ntfs: flag("core.protectntfs", true)?,
        auto_crlf: match c.last("core.autocrlf") {
            Some(Some(v)) if v.eq_ignore_ascii_case(b"input") => AutoCrlf::Input,
            _ if flag("core.autocrlf", false)? => AutoCrlf::Enabled,
            _ => AutoCrlf::Disabled,
        },
        eol: match c.last("core.eol").flatten() {
            Some(v) if v.eq_ignore_ascii_case(b"lf") => Some(EolMode::Lf),
            Some(v) if v.eq_ignore_ascii_case(b"crlf") => Some(EolMode::CrLf),
            _ => None,
        },
        big_file_threshold: c.number("core.bigfilethreshold")?.unwrap_or(512 << 20),
        index_version: c.number("index.version")?.unwrap_or(if many_files { 4 } else { 2 }),
        index_skip_hash: flag("index.skiphash", many_files)?,
    })
}

fn shared(value: Option<Option<&BStr>>) -> Result<SharedRepository, BadValue> {
    let Some(value) = value else {
        return Ok(SharedRepository::Umask);
    };
    // A key without a value: git means "group".
    let Some(text) = value else {
        return Ok(SharedRepository::Group);
    };
    let wrong = || bad(b"core.sharedrepository", "sharedRepository", Some(text));
    let is = |words: &[&str]| words.iter().any(|word| text == word.as_bytes());
    if is(&["umask"]) {
        return Ok(SharedRepository::Umask);
    }
    if is(&["group"]) {
        return Ok(SharedRepository::Group);
    }
    if is(&["all", "world", "everybody"]) {
        return Ok(SharedRepository::Everybody);
    }
    if text.is_empty() || !text.iter().all(|b| (b'0'..=b'7').contains(b)) {
        return match parse_bool(Some(text)) {
            Some(true) => Ok(SharedRepository::Group),
            Some(false) => Ok(SharedRepository::Umask),
            None => Err(wrong()),
        };
    }
    let mode = u32::from_str_radix(text.to_str().map_err(|_| wrong())?, 8).map_err(|_| wrong())?;
    match mode {
        0 => Ok(SharedRepository::Umask),
        1 | 0o660 => Ok(SharedRepository::Group),
        2 | 0o664 => Ok(SharedRepository::Everybody),
        // The owner must be able to read and write what he owns.
        mode if mode & 0o600 == 0o600 => Ok(SharedRepository::Mode(mode & 0o666)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, BadValue> {
        let mut config = Config::default();
        config.read(text.as_bytes()).expect("valid syntax");
        Settings::new(config, std::path::Path::new("/r.git"))
    }

    #[test]
    fn an_empty_configuration_means_gits_defaults() {
        let s = settings("").expect("defaults");
        assert!(s.http.get_any_file.is_none() && s.http.upload_pack && s.http.receive_pack.is_none());
        assert!(s.receive.advertise_atomic && !s.receive.deny_deletes && !s.uploadpack.allow_filter);
        assert_eq!(s.receive.deny_current_branch, Deny::Refuse);
        assert_eq!(s.receive.unpack_limit, 100);
        assert_eq!(s.uploadpack.keep_alive, Some(Duration::from_secs(5)));
        assert_eq!((s.core.loose_compression, s.pack.compression), (1, -1));
        assert_eq!(s.lsrefs_unborn, Unborn::Advertise);
        assert!(s.hide_refs_upload.is_empty());
        assert!(s.receive.fsck_objects.is_none());
    }

    #[test]
    fn what_is_written_is_meant() {
        let s = settings(
            r#"
            [uploadpack]
                allowAnySHA1InWant
                keepalive = 0
                hideRefs = refs/a
                blobPackfileUri = e69de29bb2d1d6434b8b29ae775ad8c2e48c5391 da39a3ee5e6b4b0d3255bfef95601890afd80709 https://x/ y
            [uploadpackfilter]
                allow = false
            [uploadpackfilter "tree"]
                allow = true
                maxDepth = 2
            [transfer]
                hiderefs = !refs/a/b
                unpackLimit = 1
                fsckObjects = true
            [receive]
                hiderefs = refs/r
                denyCurrentBranch = updateInstead
                denyDeleteCurrent = false
                maxInputSize = 1k
            [receive "fsck"]
                missingEmail = ignore
                skipList = list
            [core]
                sharedRepository = 0640
                logAllRefUpdates = always
                compression = 9
                alternateRefsPrefixes = refs/heads refs/tags
            [bundle]
                version = 1
            [bundle "One"]
                URI = https://x
            "#,
        )
        .expect("valid");
        assert!(s.uploadpack.allow_tip_sha1_in_want && s.uploadpack.allow_reachable_sha1_in_want);
        assert_eq!(s.uploadpack.keep_alive, None);
        assert_eq!(s.uploadpack.blob_packfile_uris[0].uri, "https://x/ y");
        assert!(s.hide_refs_upload.is_hidden("refs/a/c".into(), "refs/a/c".into()));
        assert!(!s.hide_refs_upload.is_hidden("refs/a/b".into(), "refs/a/b".into()));
        assert!(s.hide_refs_receive.is_hidden("refs/r".into(), "refs/r".into()));
        assert_eq!(s.receive.deny_current_branch, Deny::UpdateInstead);
        assert_eq!(s.receive.deny_delete_current, Deny::Ignore);
        assert_eq!(s.receive.max_input_size, Some(1024));
        assert_eq!(s.receive.unpack_limit, 1);
        assert_eq!(s.receive.fsck_objects, Some(true));
        assert_eq!(s.receive.fsck, [("missingemail".to_owned(), BString::from("ignore"))]);
        assert_eq!(s.receive.fsck_skip_list, [PathBuf::from("/r.git/list")]);
        assert_eq!(s.core.shared_repository, SharedRepository::Mode(0o640));
        assert_eq!(s.core.log_all_ref_updates, Some(LogRefUpdates::Always));
        assert_eq!((s.core.loose_compression, s.pack.compression), (9, 9));
        assert_eq!(s.core.alternate_refs_prefixes.len(), 2);
        assert_eq!(
            s.bundle,
            [
                (BString::from("bundle.version"), BString::from("1")),
                (BString::from("bundle.One.uri"), BString::from("https://x"))
            ]
        );
        assert_eq!(s.get("RECEIVE.maxinputsize"), Some(Some("1k".into())));
        assert!(s.filters.check(&Filter::TreeDepth(2)).is_ok());
        assert_eq!(
            s.filters
                .check(&Filter::TreeDepth(3))
                .expect_err("too deep")
                .to_string(),
            "tree filter allows max depth 2, but got 3"
        );
        assert_eq!(
            s.filters.check(&Filter::BlobNone).expect_err("off").to_string(),
            "filter 'blob:none' not supported"
        );
    }

    #[test]
    fn nonsense_is_an_error_that_names_the_key() {
        for (text, key) in [
            ("[receive]\ndenyDeletes = perhaps", "receive.denydeletes"),
            ("[core]\ncompression = 12", "core.compression"),
            ("[core]\nsharedRepository = 0060", "core.sharedrepository"),
            ("[lsrefs]\nunborn = x", "lsrefs.unborn"),
            ("[uploadpack]\nblobPackfileUri = x", "uploadpack.blobpackfileuri"),
            ("[transfer]\nhideRefs", "transfer.hiderefs"),
        ] {
            assert_eq!(settings(text).expect_err("nonsense").key, key);
        }
    }

    #[test]
    fn shared_repositories_widen_permissions_but_not_of_read_only_files() {
        assert_eq!(shared_mode(SharedRepository::Group, 0o644, false), 0o664);
        assert_eq!(shared_mode(SharedRepository::Group, 0o444, false), 0o444);
        assert_eq!(shared_mode(SharedRepository::Everybody, 0o600, false), 0o664);
        assert_eq!(shared_mode(SharedRepository::Mode(0o640), 0o644, false), 0o640);
        assert_eq!(shared_mode(SharedRepository::Mode(0o640), 0o444, false), 0o440);
        assert_eq!(shared_mode(SharedRepository::Group, 0o755, true), 0o2775);
        assert_eq!(shared_mode(SharedRepository::Mode(0o640), 0o755, true), 0o2750);
        assert_eq!(shared_mode(SharedRepository::Umask, 0o755, true), 0o755);
    }
}
