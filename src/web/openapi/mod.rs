//! The description of what this server answers beside git: OpenAPI 3.1, built from a table of operations and one of shapes.
//!
//! What is served is listed when it is routed ([`Routes`](super::routes::Routes)); tests hold the description against that list, and against what a running server says.

mod paths;
mod schemas;
mod words;

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Map, Value, json};

use super::api::Api;

static WHOLE: LazyLock<String> = LazyLock::new(|| whole().to_string());
static WITHOUT_ASK: LazyLock<String> = LazyLock::new(|| without_asking().to_string());
static CLASSIC: LazyLock<String> = LazyLock::new(|| classic().to_string());

/// The first part of the paths of the ask service.
const ASK: &str = "/agent/";

fn whole() -> Value {
    let info = json!({
        "title": "Gitstead",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Repositories, workspaces and their checkpoints, agents and conversations with them. Clone, fetch and push are git's own protocol, and not among this.",
        "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
    });
    document(info, paths::all())
}

/// What there is where no ask service is configured.
fn without_asking() -> Value {
    let mut document = whole();
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.retain(|path, _| !path.starts_with(ASK));
    }
    // Which may be sent, and says nothing.
    keep_what_is_used(&mut document, "NewSession");
    document
}

/// The ask service alone, under the name of the one whose paths these are.
fn classic() -> Value {
    let own = paths::all().into_iter().filter(|(path, _)| path.starts_with(ASK));
    let mut document = document(json!({ "title": "Overlord Agent", "version": "0.1.0" }), own.collect());
    keep_what_is_used(&mut document, "");
    document
}

/// Takes away what nothing refers to, but for one that is referred to nowhere.
fn keep_what_is_used(document: &mut Value, whole_only: &str) {
    let mut used = BTreeSet::new();
    references(&document["paths"], &mut used);
    loop {
        let before = used.len();
        for target in used.clone() {
            if let Some(found) = target.strip_prefix('#').and_then(|pointer| document.pointer(pointer)) {
                references(found, &mut used);
            }
        }
        if used.len() == before {
            break;
        }
    }
    for kind in ["schemas", "parameters", "responses"] {
        if let Some(all) = document["components"][kind].as_object_mut() {
            all.retain(|name, _| name == whole_only || used.contains(&format!("#/components/{kind}/{name}")));
        }
    }
}

/// Every `$ref` below a value.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member.as_str().filter(|_| key == "$ref") {
                    Some(target) => drop(found.insert(target.to_owned())),
                    None => references(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn document(info: Value, paths: Map<String, Value>) -> Value {
    let parameter = |name: &str, says: &str| json!({ "name": name, "in": "path", "required": true, "description": says, "schema": { "type": "string" } });
    let slashes = "A repository; slashes in its name are written `%2F`.";
    let failure = |says: &str, shape: &str| {
        let schema = json!({ "$ref": format!("#/components/schemas/{shape}") });
        json!({ "description": says, "content": { "application/json": { "schema": schema } } })
    };
    let components = json!({
        "parameters": {
            "name": parameter("name", "A repository, with the slashes of its name."),
            "repository": parameter("repository", slashes),
            "workspace": parameter("workspace", "A workspace of it."),
            "checkpoint": parameter("checkpoint", "A commit: an id, the beginning of one, or such as `HEAD~1`."),
            "path": parameter("path", "From the root, with slashes; other bytes percent-encoded."),
            "agent": parameter("agent", "An agent."),
            "session": parameter("session", "A session: a UUID."),
            "request": parameter("request", "A question for permission, by its `request`."),
        },
        "responses": {
            "Failed": failure("It was not done, and why.", "Error"),
            "Refused": failure("It was not done, and why.", "Detail"),
        },
        "securitySchemes": {
            "token": { "type": "http", "scheme": "bearer", "description": "As `gitstead token new` makes them." },
            "password": { "type": "http", "scheme": "basic", "description": "The same token as the password." },
        },
        "schemas": schemas::all(),
    });
    json!({
        "openapi": "3.1.0",
        "info": info,
        "servers": [{ "url": "/" }],
        // Without tokens in the configuration nobody has one.
        "security": [{ "token": [] }, { "password": [] }, {}],
        "paths": paths,
        "components": components,
    })
}

fn answer(text: &'static str) -> Response {
    let mut response = (StatusCode::OK, text).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn can_ask(api: &Api) -> bool {
    api.ask.as_ref().is_some_and(|desk| desk.spec().is_some())
}

pub(super) async fn document_of_all(State(api): State<Arc<Api>>) -> Response {
    answer(if can_ask(&api) { &WHOLE } else { &WITHOUT_ASK })
}

/// Where questions can be asked at all.
pub(super) async fn document_of_asking(State(api): State<Arc<Api>>) -> Response {
    match can_ask(&api) {
        true => answer(&CLASSIC),
        false => super::api::json(StatusCode::NOT_FOUND, &json!({ "detail": "Not Found" })),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::web::api::routes;

    const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];

    fn operations(document: &Value) -> Vec<(String, String, &Value)> {
        let mut all = Vec::new();
        for (path, item) in document["paths"].as_object().expect("an object") {
            for (method, operation) in item.as_object().expect("an object") {
                assert!(METHODS.contains(&method.as_str()), "{path} {method}");
                all.push((path.clone(), method.clone(), operation));
            }
        }
        all
    }

    #[test]
    fn what_is_described_is_what_is_served() {
        let mut served: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, methods) in routes().listed() {
            // To the router the rest of a path is another kind of parameter.
            let path = path.replace("{*", "{");
            let methods = methods.iter().map(|method| method.as_str().to_lowercase());
            served.entry(path).or_default().extend(methods);
        }
        let document = whole();
        let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, method, _) in operations(&document) {
            described.entry(path).or_default().insert(method);
        }
        assert_eq!(described, served);
        assert!(served.len() > 30, "{served:?}");
    }

    #[test]
    fn every_reference_leads_to_something_and_everything_is_referred_to() {
        for document in [whole(), without_asking(), classic()] {
            refers_well(&document);
        }
    }

    #[track_caller]
    fn refers_well(document: &Value) {
        let mut found = BTreeSet::new();
        references(document, &mut found);
        for target in &found {
            let pointer = target.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        for kind in ["schemas", "parameters", "responses"] {
            for name in document["components"][kind].as_object().expect("an object").keys() {
                // Which may be sent, and says nothing.
                let is_used = found.contains(&format!("#/components/{kind}/{name}")) || name == "NewSession";
                assert!(is_used, "{kind} {name} is for nothing");
            }
        }
        assert!(
            !document.to_string().contains("\"enum\":[\"#"),
            "a type is written wrongly"
        );
    }

    #[test]
    fn every_operation_is_whole() {
        for document in [whole(), classic()] {
            assert_eq!(document["openapi"], "3.1.0");
            let mut ids = BTreeSet::new();
            for (path, method, operation) in operations(&document) {
                let at = format!("{method} {path}");
                let id = operation["operationId"].as_str().expect("a name");
                assert!(ids.insert(id.to_owned()), "{at}: {id} twice");
                assert!(
                    operation["summary"].as_str().is_some_and(|text| !text.is_empty()),
                    "{at}"
                );
                let responses = operation["responses"].as_object().expect("an object");
                assert!(responses.keys().any(|status| status.starts_with('2')), "{at}");
                assert!(responses.contains_key("default"), "{at}");
                for (status, response) in responses {
                    let is_sound = response["$ref"].is_string() || response["description"].is_string();
                    assert!(is_sound, "{at} {status}");
                    assert!(
                        status == "default" || (200..600).contains(&status.parse().unwrap_or(0)),
                        "{at} {status}"
                    );
                }
                assert_eq!(
                    operation["requestBody"].is_object(),
                    operation["requestBody"]["required"] == true,
                    "{at}"
                );
                assert!(method != "get" || operation["requestBody"].is_null(), "{at}");
                // The parameters of the path are those that are described for it.
                let none = Vec::new();
                let parameters = operation["parameters"].as_array().unwrap_or(&none);
                let told: BTreeSet<_> = parameters
                    .iter()
                    .filter_map(|one| one["$ref"].as_str()?.strip_prefix("#/components/parameters/"))
                    .collect();
                let wanted: BTreeSet<_> = path
                    .split('{')
                    .skip(1)
                    .filter_map(|rest| rest.split('}').next())
                    .collect();
                assert_eq!(told, wanted, "{at}");
                let mut names: Vec<_> = parameters.iter().filter_map(|one| one["name"].as_str()).collect();
                names.sort_unstable();
                let count = names.len();
                names.dedup();
                assert_eq!(names.len(), count, "{at}");
            }
        }
    }

    #[test]
    fn the_ask_service_is_described_under_its_own_name() {
        let document = classic();
        assert_eq!(
            (&document["info"]["title"], &document["info"]["version"]),
            (&json!("Overlord Agent"), &json!("0.1.0"))
        );
        let paths: Vec<_> = document["paths"].as_object().expect("an object").keys().collect();
        assert_eq!(
            paths,
            [
                "/agent/ask",
                "/agent/health",
                "/agent/openapi.json",
                "/agent/ready",
                "/agent/sessions/new",
                "/agent/sessions/{session}/history"
            ]
        );
    }

    #[test]
    fn where_nobody_answers_no_ask_service_is_described() {
        let document = without_asking();
        let paths = document["paths"].as_object().expect("an object");
        assert!(paths.len() > 30 && !paths.keys().any(|path| path.starts_with(ASK)));
        assert!(document["components"]["schemas"]["ClassicAnswer"].is_null());
        assert!(
            document["components"]["schemas"]["NewSession"].is_object(),
            "it may be sent"
        );
    }

    #[test]
    fn a_word_is_a_schema() {
        for (word, expected) in [
            ("string?", json!({ "type": ["string", "null"] })),
            ("a|b?", json!({ "type": ["string", "null"], "enum": ["a", "b", null] })),
            (
                "[#Side]",
                json!({ "type": "array", "items": { "$ref": "#/components/schemas/Side" } }),
            ),
            (
                "{int}",
                json!({ "type": "object", "additionalProperties": { "type": "integer" } }),
            ),
            (
                "#Side?",
                json!({ "anyOf": [{ "$ref": "#/components/schemas/Side" }, { "type": "null" }] }),
            ),
        ] {
            assert_eq!(words::schema(word), expected, "{word}");
        }
    }
}
