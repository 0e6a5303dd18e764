//! Routes and a list of what they are: what is served, what is refused with `Allow`, and what the description of the API is held against are the same.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    handler::Handler,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, delete, get, patch, post},
};

use super::api::{Api, ApiError, json};

/// Routes that are being put together.
pub(super) struct Routes {
    router: Router<Arc<Api>>,
    listed: BTreeMap<String, Vec<Method>>,
}

impl Routes {
    pub(super) fn new() -> Self {
        Routes {
            router: Router::new(),
            listed: BTreeMap::new(),
        }
    }

    fn add(mut self, method: Method, path: &str, route: MethodRouter<Arc<Api>>) -> Self {
        self.router = self.router.route(path, route);
        self.listed.entry(path.to_owned()).or_default().push(method);
        self
    }

    /// Also for HEAD.
    pub(super) fn get<H: Handler<T, Arc<Api>>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.add(Method::GET, path, get(handler))
    }

    pub(super) fn post<H: Handler<T, Arc<Api>>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.add(Method::POST, path, post(handler))
    }

    pub(super) fn patch<H: Handler<T, Arc<Api>>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.add(Method::PATCH, path, patch(handler))
    }

    pub(super) fn delete<H: Handler<T, Arc<Api>>, T: 'static>(self, path: &str, handler: H) -> Self {
        self.add(Method::DELETE, path, delete(handler))
    }

    pub(super) fn merge(mut self, more: Routes) -> Self {
        self.router = self.router.merge(more.router);
        self.listed.extend(more.listed);
        self
    }

    /// Each path with its methods.
    #[cfg(test)]
    pub(super) fn listed(&self) -> &BTreeMap<String, Vec<Method>> {
        &self.listed
    }

    /// The routes, each of which says which methods it has to whoever asks with another one.
    pub(super) fn into_router(self) -> Router<Arc<Api>> {
        let mut router = self.router;
        for (path, methods) in self.listed {
            let mut words = Vec::new();
            for method in &methods {
                words.push(method.as_str());
                if method == Method::GET {
                    words.push("HEAD");
                }
            }
            let allow = HeaderValue::from_str(&words.join(", ")).expect("methods are words");
            let refuse = move |method: Method, uri: Uri| std::future::ready(wrong_method(&method, &uri, allow));
            router = router.route(&path, MethodRouter::new().fallback(refuse));
        }
        router
    }
}

fn wrong_method(method: &Method, uri: &Uri, allow: HeaderValue) -> Response {
    let mut response = match uri.path().starts_with("/agent/") {
        // In the form of these paths.
        true => {
            let body = serde_json::json!({ "detail": "Method Not Allowed" });
            json(StatusCode::METHOD_NOT_ALLOWED, &body)
        }
        false => {
            let message = format!("{method} is not for this path");
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).into_response()
        }
    };
    response.headers_mut().insert(header::ALLOW, allow);
    response
}
