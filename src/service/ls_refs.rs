//! `ls-refs` of protocol version 2 (gitprotocol-v2(5)).

use std::{io::Write, sync::Arc};

use bstr::{BStr, ByteSlice};

use crate::{
    protocol::{LsRefs, flush, ls_refs_line, ls_refs_unborn},
    repo::{Head, HideRefs, RefQuery, RefsMoment, Repository},
};

use super::{
    Context, ServiceError,
    answers::{Key, Question},
    wants::hidden,
};

/// Bytes collected before they are handed on.
const CHUNK: usize = 32 * 1024;
/// Listings of more bytes are not kept: half a million refs have names of usual length in it.
const KEPT: usize = 32 << 20;

/// Answers with the refs that this client may see and asks for.
pub(super) fn ls_refs(
    repo: &Repository,
    ctx: &Context<'_>,
    request: &LsRefs,
    out: &mut dyn Write,
) -> Result<(), ServiceError> {
    let hide = &repo.settings().hide_refs_upload;
    let query = RefQuery {
        namespace: ctx.namespace.map(BStr::to_owned),
        prefixes: request.prefixes.clone(),
        peel: request.peel,
    };
    let moment = repo.ref_store().at_once(&query)?;
    let head = repo.head(ctx.namespace)?;
    let kept = ctx
        .answers
        .and_then(|answers| Some((answers, question(ctx, request, hide, &moment, &head)?)));
    if let Some((answers, key)) = kept
        && let Some(listing) = answers.listing(&key)
    {
        out.write_all(&listing).map_err(ServiceError::Write)?;
        return out.flush().map_err(ServiceError::Write);
    }
    let mut lines = Lines {
        out,
        buf: Vec::new(),
        keep: kept.is_some().then(Vec::new),
    };
    let wanted = |name: &BStr| {
        request.prefixes.is_empty()
            || request
                .prefixes
                .iter()
                .any(|prefix| name.starts_with(prefix.as_slice()))
    };
    let buf = &mut lines.buf;
    if wanted(b"HEAD".as_bstr()) && !hidden(ctx, hide, b"HEAD".as_bstr()) {
        match &head {
            Head::Symbolic { target, id: Some(id) } => {
                let target = request.symrefs.then_some(target.as_bstr());
                ls_refs_line(id, "HEAD".into(), target, None, buf);
            }
            Head::Detached(id) => ls_refs_line(id, "HEAD".into(), None, None, buf),
            Head::Symbolic { target, id: None } if request.unborn && !hidden(ctx, hide, target.as_bstr()) => {
                ls_refs_unborn("HEAD".into(), target.as_bstr(), buf);
            }
            _ => {}
        }
    }
    let complete = moment.each(Some(&repo.odb()?), &mut |seen| {
        if !wanted(seen.name) || hidden(ctx, hide, seen.name) {
            return Ok(());
        }
        let target = seen.symref_target.filter(|_| request.symrefs);
        ls_refs_line(seen.id, seen.name, target, seen.peeled, &mut lines.buf);
        match lines.buf.len() >= CHUNK {
            true => lines.put(),
            false => Ok(()),
        }
    })?;
    flush(&mut lines.buf);
    lines.put()?;
    lines.out.flush().map_err(ServiceError::Write)?;
    // What is broken may be mended without any ref changing.
    if complete && let (Some((answers, key)), Some(listing)) = (kept, lines.keep) {
        answers.keep_listing(key, Arc::new(listing));
    }
    Ok(())
}

/// Lines on their way, and a copy of those that have gone.
struct Lines<'a> {
    out: &'a mut dyn Write,
    buf: Vec<u8>,
    keep: Option<Vec<u8>>,
}

impl Lines<'_> {
    fn put(&mut self) -> Result<(), ServiceError> {
        self.out.write_all(&self.buf).map_err(ServiceError::Write)?;
        self.keep = self
            .keep
            .take()
            .filter(|kept| kept.len() + self.buf.len() <= KEPT)
            .map(|mut kept| {
                kept.extend_from_slice(&self.buf);
                kept
            });
        self.buf.clear();
        Ok(())
    }
}

/// All that the answer depends on, as long as no ref is broken.
fn question(ctx: &Context<'_>, request: &LsRefs, hide: &HideRefs, moment: &RefsMoment<'_>, head: &Head) -> Option<Key> {
    let mut question = Question::new("ls-refs");
    question.number(
        u64::from(request.peel)
            | u64::from(request.symrefs) << 1
            | u64::from(request.unborn) << 2
            | u64::from(ctx.namespace.is_some()) << 3,
    );
    question.bytes(ctx.namespace.map_or(&b""[..], |namespace| namespace.as_bytes()));
    question.number(request.prefixes.len() as u64);
    for prefix in &request.prefixes {
        question.bytes(prefix);
    }
    hide.tell_apart(&mut |part| question.bytes(part));
    match head {
        Head::Missing => question.number(0),
        Head::Detached(id) => {
            question.number(1);
            question.bytes(id.as_slice());
        }
        Head::Symbolic { target, id } => {
            question.number(2);
            question.bytes(target);
            question.bytes(id.as_ref().map_or(&b""[..], |id| id.as_slice()));
        }
    }
    moment.tell_apart(&mut |part| question.bytes(part));
    question.key()
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::atomic::AtomicBool};

    use gix::{hash::Kind as HashKind, objs::Kind};

    use super::*;
    use crate::{
        base::{Limits, SystemClock},
        repo::testing::TestRepo,
        service::AnswerCache,
    };

    fn listing(repo: &Repository, answers: Option<&AnswerCache>, request: &LsRefs) -> Vec<u8> {
        let mut out = Vec::new();
        let (limits, stop) = (Limits::default(), AtomicBool::new(false));
        let ctx = Context {
            limits: &limits,
            namespace: None,
            user: None,
            remote_addr: "",
            session_id: "",
            stop: &stop,
            clock: &SystemClock,
            answers,
            worktrees: None,
        };
        ls_refs(repo, &ctx, request, &mut out).expect("a listing");
        out
    }

    fn requests() -> Vec<LsRefs> {
        let mut all = Vec::new();
        for bits in 0..8 {
            for prefixes in [
                vec![],
                vec!["refs/heads/".into(), "HEAD".into()],
                vec!["refs/tags/".into()],
            ] {
                all.push(LsRefs {
                    symrefs: bits & 1 != 0,
                    peel: bits & 2 != 0,
                    unborn: bits & 4 != 0,
                    prefixes,
                });
            }
        }
        all
    }

    #[test]
    fn what_is_kept_is_what_would_be_said_now_whatever_happened_to_the_refs() {
        let files = TestRepo::new(HashKind::Sha1);
        let (one, two) = (files.loose(Kind::Blob, b"one"), files.loose(Kind::Blob, b"two"));
        let tag = format!("object {one}\ntype blob\ntag t\ntagger a <a@b> 0 +0000\n\nt\n");
        let tag = files.loose(Kind::Tag, tag.as_bytes());
        let lost = crate::repo::testing::id_of(HashKind::Sha1, Kind::Blob, b"lost");
        let repo = files.open();
        let answers = AnswerCache::new(1 << 20);
        let write = |name: &str, content: &str| {
            let path = files.path().join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, content).expect("write");
        };
        let mut seen = Vec::new();
        let mut look = |after: &str| {
            for request in requests() {
                let anew = listing(&repo, None, &request);
                for _ in 0..2 {
                    assert_eq!(listing(&repo, Some(&answers), &request), anew, "{after}: {request:?}");
                }
            }
            seen.push(listing(&repo, Some(&answers), &requests()[21]));
        };
        look("nothing");
        write("refs/heads/main", &one.to_string());
        look("a first branch");
        write("refs/heads/main", &two.to_string());
        look("a branch that moved");
        write("refs/tags/t", &tag.to_string());
        look("a tag");
        write("refs/tags/alias", "ref: refs/heads/main\n");
        look("a symbolic ref");
        write("refs/heads/main", &one.to_string());
        look("a symbolic ref whose end moved");
        write(
            "packed-refs",
            &format!("{two} refs/heads/packed\n{tag} refs/tags/packed\n^{one}\n"),
        );
        look("packed refs");
        write(
            "packed-refs",
            &format!("{one} refs/heads/packed\n{tag} refs/tags/packed\n^{one}\n"),
        );
        look("packed refs that changed");
        write("HEAD", "ref: refs/heads/none\n");
        look("a head that is not born");
        write("HEAD", &two.to_string());
        look("a detached head");
        write("refs/tags/lost", &lost.to_string());
        look("a ref to nothing");
        files.loose(Kind::Blob, b"lost");
        look("what it points to came later");
        fs::remove_file(files.path().join("refs/tags/t")).expect("removed");
        look("a tag that was deleted");
        fs::remove_file(files.path().join("packed-refs")).expect("removed");
        look("no packed refs");
        // Each of them is seen in the listing of all refs with all there is to say.
        seen.dedup();
        assert_eq!(seen.len(), 13);
    }

    #[test]
    fn listings_are_kept_unless_something_is_broken() {
        let files = TestRepo::new(HashKind::Sha1);
        let id = files.loose(Kind::Blob, b"one");
        fs::write(files.path().join("refs/heads/main"), id.to_string()).expect("write");
        let repo = files.open();
        let kept = |answers: &AnswerCache| {
            let query = RefQuery::default();
            let (limits, stop) = (Limits::default(), AtomicBool::new(false));
            let ctx = Context {
                limits: &limits,
                namespace: None,
                user: None,
                remote_addr: "",
                session_id: "",
                stop: &stop,
                clock: &SystemClock,
                answers: Some(answers),
                worktrees: None,
            };
            let moment = repo.ref_store().at_once(&query).expect("refs");
            let head = repo.head(None).expect("a head");
            let key = question(&ctx, &LsRefs::default(), &HideRefs::default(), &moment, &head).expect("a key");
            answers.listing(&key)
        };
        let answers = AnswerCache::new(1 << 20);
        let said = listing(&repo, Some(&answers), &LsRefs::default());
        assert_eq!(kept(&answers).as_deref(), Some(&said));
        fs::write(files.path().join("refs/heads/broken"), "nothing").expect("write");
        listing(&repo, Some(&answers), &LsRefs::default());
        assert_eq!(kept(&answers), None);
    }
}
