use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Query, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use bstr::{BString, ByteSlice as _};
use serde::Deserialize;

use super::{Asked, PAGE, Which, odb, revision};
use crate::{
    checkpoint,
    web::{
        api::{Answer, Api, ApiError, json},
        house::Caller,
        path::percent_decode,
        views::{TreeView, mode_of},
    },
};

/// Bytes of a file that is answered; larger ones are there for those who clone.
const FILE_BYTES: u64 = 32 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileAsked {
    at: Option<String>,
}

/// The path of a file in a URL, behind `…/{workspace}/{what}/`, its bytes decoded.
fn path_in(uri: &Uri) -> Result<BString, ApiError> {
    let mut parts = uri.path().splitn(8, '/').skip(7);
    decoded(parts.next().unwrap_or_default())
}

fn decoded(text: &str) -> Result<BString, ApiError> {
    let wrong = || ApiError::bad_request("the path is not percent-encoded");
    Ok(percent_decode(text).ok_or_else(wrong)?.into())
}

pub(super) async fn file(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    uri: Uri,
    asked: Asked<FileAsked>,
) -> Answer {
    let which = which_in(&uri)?;
    let Query(asked) = asked?;
    let path = path_in(&uri)?;
    let (found, commit) = api
        .work(move |api| {
            let workspace = which.reading(api, &who)?;
            let commit = revision(workspace.repository(), asked.at.as_deref())?;
            let odb = odb(workspace.repository())?;
            let found = checkpoint::read_file(&odb, &commit, path.as_bstr(), FILE_BYTES)?;
            Ok((found, commit))
        })
        .await?;
    if found.is_too_large {
        let text = format!("the file has {} bytes; clone the repository to get it", found.size);
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text));
    }
    let mut response = Response::new(Body::from(found.bytes));
    let headers = response.headers_mut();
    let value = |text: String| HeaderValue::from_str(&text).expect("hexadecimal digits and quotation marks");
    // Whatever is in it, no browser shall run it in our name.
    for (name, text) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(text));
    }
    headers.insert(header::ETAG, value(format!("\"{}\"", found.id)));
    headers.insert("gitstead-commit", value(commit.to_string()));
    headers.insert("gitstead-mode", HeaderValue::from_static(mode_of(found.kind)));
    Ok(response)
}

/// The workspace of a path that goes on behind it. The rest need not be UTF-8, so it is not asked of the router.
fn which_in(uri: &Uri) -> Result<Which, ApiError> {
    let mut parts = uri.path().split('/').skip(4);
    let mut text = || -> Result<String, ApiError> {
        let part = decoded(parts.next().unwrap_or_default())?;
        String::from_utf8(part.into()).map_err(|_| ApiError::bad_request("a name is not UTF-8"))
    };
    let (repository, name) = (text()?, text()?);
    Which::parse(&repository, &name)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TreeAsked {
    at: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn tree(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    uri: Uri,
    asked: Asked<TreeAsked>,
) -> Answer {
    let which = which_in(&uri)?;
    let Query(asked) = asked?;
    let path = path_in(&uri)?;
    let after = asked.after.as_deref().map(decoded).transpose()?;
    let view = api
        .work(move |api| {
            let workspace = which.reading(api, &who)?;
            let commit = revision(workspace.repository(), asked.at.as_deref())?;
            let odb = odb(workspace.repository())?;
            let after = after.as_ref().map(|after| after.as_bstr());
            let limit = asked.limit.unwrap_or(PAGE).clamp(1, PAGE);
            let listing = checkpoint::list_tree(&odb, &commit, path.as_bstr(), after, limit)?;
            Ok(TreeView::of(&listing, commit.to_string()))
        })
        .await?;
    Ok(json(StatusCode::OK, &view))
}
