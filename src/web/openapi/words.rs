//! What a description in OpenAPI 3.1 is put together from, in few words.
//!
//! A type is a word: `string`, `int`, `number`, `bool`, `time` (RFC 3339), `any`, `a|b|c` (one of these words), `#Name` (a schema of the document), `[…]` (a list of what is
//! in it), `{…}` (an object whose values are that); with `?` at its end it may be null. A member whose name ends with `?` may be missing.

use serde_json::{Map, Value, json};

/// A member of an object or a parameter: name, type, what it is.
pub(super) type Field = (&'static str, &'static str, &'static str);

/// The schema of a type.
pub(super) fn schema(word: &str) -> Value {
    if let Some(word) = word.strip_suffix('?') {
        let mut inner = schema(word);
        return match inner["type"].as_str().map(str::to_owned) {
            Some(kind) => {
                inner["type"] = json!([kind, "null"]);
                if let Some(words) = inner.get_mut("enum").and_then(Value::as_array_mut) {
                    words.push(Value::Null);
                }
                inner
            }
            None => json!({ "anyOf": [inner, { "type": "null" }] }),
        };
    }
    let within = |open: char, close: char| word.strip_prefix(open)?.strip_suffix(close);
    if let Some(items) = within('[', ']') {
        return json!({ "type": "array", "items": schema(items) });
    }
    if let Some(values) = within('{', '}') {
        return json!({ "type": "object", "additionalProperties": schema(values) });
    }
    if let Some(name) = word.strip_prefix('#') {
        return json!({ "$ref": format!("#/components/schemas/{name}") });
    }
    match word {
        "string" => json!({ "type": "string" }),
        "int" => json!({ "type": "integer" }),
        "number" => json!({ "type": "number" }),
        "bool" => json!({ "type": "boolean" }),
        "time" => json!({ "type": "string", "format": "date-time" }),
        "any" => json!({}),
        words => json!({ "type": "string", "enum": words.split('|').collect::<Vec<_>>() }),
    }
}

fn described(mut schema: Value, says: &str) -> Value {
    if !says.is_empty() {
        schema["description"] = json!(says);
    }
    schema
}

/// The schema of an object with these members and no others.
pub(super) fn object(says: &str, fields: &[Field]) -> Value {
    let (mut members, mut required) = (Map::new(), Vec::new());
    for (name, word, about) in fields {
        let bare = name.trim_end_matches('?');
        if bare == *name {
            required.push(bare);
        }
        members.insert(bare.to_owned(), described(schema(word), about));
    }
    let made = json!({ "type": "object", "properties": members, "required": required, "additionalProperties": false });
    described(made, says)
}

/// One operation.
pub(super) struct Op {
    value: Value,
    parameters: Vec<Value>,
}

impl Op {
    /// `id` is unique; `says` is a line for people.
    pub(super) fn new(id: &str, tag: &str, says: &str) -> Self {
        let failed = json!({ "$ref": "#/components/responses/Failed" });
        Op {
            value: json!({ "operationId": id, "tags": [tag], "summary": says, "responses": { "default": failed } }),
            parameters: Vec::new(),
        }
    }

    /// More about it.
    pub(super) fn about(mut self, text: &str) -> Self {
        self.value["description"] = json!(text);
        self
    }

    /// Parameters of the query; none has to be given unless its type says so.
    pub(super) fn query(mut self, fields: &[Field]) -> Self {
        for (name, word, says) in fields {
            let parameter = json!({ "name": name, "in": "query", "schema": schema(word) });
            self.parameters.push(described(parameter, says));
        }
        self
    }

    pub(super) fn header(mut self, name: &str, word: &str, says: &str) -> Self {
        let parameter = json!({ "name": name, "in": "header", "schema": schema(word), "description": says });
        self.parameters.push(parameter);
        self
    }

    /// A body, which has to be there.
    pub(super) fn takes(mut self, word: &str) -> Self {
        let content = json!({ "application/json": { "schema": schema(word) } });
        self.value["requestBody"] = json!({ "required": true, "content": content });
        self
    }

    fn respond(mut self, status: u16, response: Value) -> Self {
        self.value["responses"][status.to_string()] = response;
        self
    }

    /// An answer in JSON.
    pub(super) fn gives(self, status: u16, says: &str, word: &str) -> Self {
        let content = json!({ "application/json": { "schema": schema(word) } });
        self.respond(status, json!({ "description": says, "content": content }))
    }

    /// An answer of another kind.
    pub(super) fn gives_as(self, status: u16, says: &str, kind: &str) -> Self {
        let content = json!({ kind: { "schema": { "type": "string" } } });
        self.respond(status, json!({ "description": says, "content": content }))
    }

    /// The answer of 200 also as events, to whoever accepts them.
    pub(super) fn or_events(mut self, says: &str) -> Self {
        self.value["responses"]["200"]["content"]["text/event-stream"] =
            json!({ "schema": { "type": "string", "description": says } });
        self
    }

    /// An answer without a body.
    pub(super) fn done(self, status: u16, says: &str) -> Self {
        self.respond(status, json!({ "description": says }))
    }

    /// An error that is worth a word.
    pub(super) fn fails(self, status: u16, says: &str) -> Self {
        self.gives(status, says, "#Error")
    }

    /// An answer that says where something is.
    pub(super) fn located(mut self) -> Self {
        let header = json!({ "description": "Where it is.", "schema": { "type": "string" } });
        self.value["responses"]["201"]["headers"] = json!({ "Location": header });
        self
    }

    /// Nobody has to say who he is.
    pub(super) fn open(mut self) -> Self {
        self.value["security"] = json!([{}]);
        self
    }

    /// As the ask service answers that these paths come from: an error is `{"detail": …}`.
    pub(super) fn classic(mut self) -> Self {
        self.value["responses"]["default"] = json!({ "$ref": "#/components/responses/Refused" });
        self
    }

    /// Puts it at its place.
    pub(super) fn at(mut self, paths: &mut Map<String, Value>, method: &str, path: &str) {
        let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let of_path = names.map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
        let mut parameters: Vec<_> = of_path.collect();
        parameters.append(&mut self.parameters);
        if !parameters.is_empty() {
            self.value["parameters"] = Value::Array(parameters);
        }
        let slot = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        slot[method] = self.value;
    }
}
