//! JSON from somebody else's process: read under a bound, forgiving about its characters.
//!
//! A line may be 20 MiB of numbers, which as a tree of values is many times that. What is read here keeps short strings, so many values and no more, and the
//! beginning of long strings. Values near the top are counted apart from those in lists, and no member of a line may use up all that is left for the next ones: a long
//! list cannot crowd out a `type` that comes after it.

use std::{borrow::Cow, cell::Cell, fmt};

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Values of one line near its top and in no list.
const SHALLOW: usize = 4 << 10;
/// All other values of one line.
const DEEP: usize = 60 << 10;
/// Levels below which nothing is near the top.
const NEAR: usize = 3;
/// Strings that are kept whole whatever else the line holds.
const SHORT: usize = 256;

/// A JSON value, as much of it as is kept.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Json {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Map(Vec<(String, Json)>),
}

static NULL: Json = Json::Null;

impl Json {
    /// The member of that name; null where there is none.
    pub fn at(&self, key: &str) -> &Json {
        match self {
            // The last one counts, as everywhere.
            Json::Map(members) => members
                .iter()
                .rev()
                .find(|(have, _)| have == key)
                .map_or(&NULL, |(_, value)| value),
            _ => &NULL,
        }
    }

    /// Members of members.
    pub fn path(&self, keys: &[&str]) -> &Json {
        keys.iter().fold(self, |value, key| value.at(key))
    }

    /// By a JSON pointer (RFC 6901); null where it points at nothing.
    pub fn pointer(&self, pointer: &str) -> &Json {
        if pointer.is_empty() {
            return self;
        }
        let Some(parts) = pointer.strip_prefix('/') else {
            return &NULL;
        };
        parts.split('/').fold(self, |value, part| match value {
            Json::List(items) => part.parse::<usize>().ok().and_then(|at| items.get(at)).unwrap_or(&NULL),
            value => value.at(&part.replace("~1", "/").replace("~0", "~")),
        })
    }

    /// What tells this value from others: the SHA-256 of it as JSON without spaces and with its members in the order of their names, as much of it as is kept. Nothing for null.
    pub fn sha(&self) -> Option<String> {
        use sha2::Digest as _;
        if self.is_null() {
            return None;
        }
        let mut hasher = sha2::Sha256::new();
        self.write(&mut |bytes| hasher.update(bytes));
        Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn write(&self, out: &mut impl FnMut(&[u8])) {
        let text = |text: &str, out: &mut dyn FnMut(&[u8])| out(serde_json::Value::from(text).to_string().as_bytes());
        match self {
            Json::Null => out(b"null"),
            Json::Bool(yes) => out(if *yes { b"true" } else { b"false" }),
            Json::Int(number) => out(number.to_string().as_bytes()),
            Json::Float(number) => out(number.to_string().as_bytes()),
            Json::Text(said) => text(said, out),
            Json::List(items) => {
                out(b"[");
                for (at, item) in items.iter().enumerate() {
                    out(if at == 0 { b"" } else { b"," });
                    item.write(out);
                }
                out(b"]");
            }
            Json::Map(members) => {
                let mut members: Vec<_> = members.iter().collect();
                members.sort_by(|(one, _), (other, _)| one.cmp(other));
                out(b"{");
                for (at, (key, value)) in members.into_iter().enumerate() {
                    out(if at == 0 { b"" } else { b"," });
                    text(key, out);
                    out(b":");
                    value.write(out);
                }
                out(b"}");
            }
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A text with something in it.
    pub fn some_text(&self) -> Option<&str> {
        self.text().filter(|text| !text.is_empty())
    }

    /// A text, or nothing.
    pub fn str(&self) -> &str {
        self.text().unwrap_or_default()
    }

    pub fn int(&self) -> Option<i64> {
        match self {
            Json::Int(number) => Some(*number),
            // Past 2^53 nobody counts.
            Json::Float(number) if number.abs() < 9e15 => Some(*number as i64),
            _ => None,
        }
    }

    /// A number that is not negative.
    pub fn count(&self) -> Option<u64> {
        self.int().and_then(|number| u64::try_from(number).ok())
    }

    pub fn float(&self) -> Option<f64> {
        match self {
            Json::Int(number) => Some(*number as f64),
            Json::Float(number) => Some(*number),
            _ => None,
        }
    }

    pub fn is_true(&self) -> bool {
        *self == Json::Bool(true)
    }

    pub fn is_null(&self) -> bool {
        *self == Json::Null
    }

    pub fn list(&self) -> &[Json] {
        match self {
            Json::List(items) => items,
            _ => &[],
        }
    }
}

/// A line that is a JSON object.
pub(super) struct Object<'a> {
    pub json: Json,
    /// What it was read from: the line, mended where its characters were broken.
    text: Cow<'a, str>,
}

impl Object<'_> {
    /// The source text of a member of members, byte for byte.
    pub fn raw(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().try_fold(&*self.text, |text, key| member(text, key))
    }
}

/// Reads a line that is a JSON object; `None` for any other. A byte order mark, a `\r` and white space around it do not matter; bytes that are no UTF-8 and surrogates
/// that stand alone become `U+FFFD`. `longest` bounds each string.
pub(super) fn object(line: &[u8], longest: usize) -> Option<Object<'_>> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii();
    if line.first() != Some(&b'{') || line.last() != Some(&b'}') {
        return None;
    }
    let text = String::from_utf8_lossy(line);
    if let Some(json) = parse(&text, longest) {
        return Some(Object { json, text });
    }
    // Lone surrogates are what is left that can be mended.
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return None;
    }
    let text = without_lone_surrogates(&text);
    parse(&text, longest).map(|json| Object {
        json,
        text: Cow::Owned(text),
    })
}

/// Reads any JSON text, as strings that hold JSON do.
pub(super) fn parse(text: &str, longest: usize) -> Option<Json> {
    let budget = Budget {
        shallow: Cell::new(SHALLOW),
        deep: Cell::new(DEEP),
        long: Cell::new(longest.saturating_mul(4)),
        longest,
    };
    let mut source = serde_json::Deserializer::from_str(text);
    let value = Keep {
        budget: &budget,
        depth: 0,
    }
    .deserialize(&mut source)
    .ok()?;
    source.end().ok()?;
    value
}

fn without_lone_surrogates(text: &str) -> String {
    let code = |at: usize| -> Option<u16> {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let (mut from, mut at) = (0, 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match code(at) {
            Some(0xd800..=0xdbff) if matches!(code(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                out.push_str(&text[from..at]);
                out.push_str("\\ufffd");
                from = at + 6;
                6
            }
            Some(_) => 6,
            // An escape of one character, which may be a backslash.
            None => 2,
        };
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

/// The source text of one member of an object.
fn member<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    struct Pick<'k>(&'k str);
    impl<'de> Visitor<'de> for Pick<'_> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(key) = map.next_key::<String>()? {
                if key == self.0 {
                    found = Some(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }
    let mut source = serde_json::Deserializer::from_str(text);
    let found = source.deserialize_map(Pick(key)).ok()?;
    found.map(RawValue::get)
}

struct Budget {
    shallow: Cell<usize>,
    deep: Cell<usize>,
    /// Bytes of strings that are not short.
    long: Cell<usize>,
    longest: usize,
}

impl Budget {
    /// Whether one more value may be kept at this depth.
    fn one(&self, depth: usize) -> bool {
        let left = if depth <= NEAR { &self.shallow } else { &self.deep };
        match left.get().checked_sub(1) {
            Some(less) => {
                left.set(less);
                true
            }
            None => false,
        }
    }

    fn text(&self, text: &str) -> String {
        if text.len() <= SHORT {
            return text.to_owned();
        }
        let most = self.longest.min(self.long.get()).max(SHORT);
        let kept = head(text, most);
        self.long.set(self.long.get().saturating_sub(kept.len()));
        kept.to_owned()
    }
}

/// At most `most` bytes from the beginning, whole characters only.
pub(super) fn head(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Keeps a value, or `None` of it once the budget is spent.
#[derive(Clone, Copy)]
struct Keep<'b> {
    budget: &'b Budget,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Keep<'_> {
    type Value = Option<Json>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Self::Value, D::Error> {
        if !self.budget.one(self.depth) {
            return IgnoredAny::deserialize(source).map(|IgnoredAny| None);
        }
        source.deserialize_any(self).map(Some)
    }
}

impl<'de> Visitor<'de> for Keep<'_> {
    type Value = Json;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
        Ok(i64::try_from(value).map_or(Json::Float(value as f64), Json::Int))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(self.budget.text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let inside = Keep {
            depth: self.depth.max(NEAR) + 1,
            ..self
        };
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(inside)? {
            items.extend(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let inside = Keep {
            depth: self.depth + 1,
            ..self
        };
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            // A long name is none that we know.
            if key.len() > SHORT {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let deep = &self.budget.deep;
            let spared = if self.depth == 0 { deep.get() / 2 } else { 0 };
            deep.set(deep.get() - spared);
            let value = map.next_value_seed(inside)?;
            deep.set(deep.get() + spared);
            members.extend(value.map(|value| (key, value)));
        }
        Ok(Json::Map(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[u8]) -> Json {
        object(line, 1 << 20).expect("an object").json
    }

    #[test]
    fn the_same_input_has_the_same_sha_however_it_is_written() {
        let sha = |text: &[u8]| {
            let line = object(text, 1 << 20).expect("an object").json;
            line.at("input").sha()
        };
        let one = sha(br#"{"input":{"b":[1,2.5,null,true],"a":"x\u00e9"}}"#);
        assert_eq!(
            one,
            sha("{\"input\": {\"a\" : \"xé\", \"b\":[1,2.5,null,true] } }".as_bytes())
        );
        assert_ne!(one, sha(br#"{"input":{"b":[1,2.5,null,false],"a":"x\u00e9"}}"#));
        assert_eq!(
            sha(br#"{"input":{}}"#).as_deref(),
            Some("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
            "as `printf {{}} | sha256sum` has it"
        );
        assert_eq!(sha(br#"{"input":null}"#), None);
    }

    #[test]
    fn a_line_is_read_whatever_is_around_it() {
        for line in [
            &b"{\"a\":1}"[..],
            b"\xef\xbb\xbf{\"a\":1}",
            b" {\"a\":1}\r",
            b"\t{ \"b\": [], \"a\" : 1 }\r\r",
        ] {
            assert_eq!(read(line).at("a"), &Json::Int(1));
        }
        for line in [
            &b""[..],
            b"[1]",
            b"{",
            b"{\"a\":",
            b"{\"a\":1} x",
            b"{\"a\":1}{\"a\":2}",
            b"\x1b[31mhook\x1b[0m",
            b"{'a':1}",
        ] {
            assert!(object(line, 100).is_none(), "{line:?}");
        }
    }

    #[test]
    fn broken_characters_are_mended() {
        assert_eq!(read(b"{\"a\":\"x\xff\xfey\"}").at("a").str(), "x\u{fffd}\u{fffd}y");
        assert_eq!(read(br#"{"a":"x\ud83dy"}"#).at("a").str(), "x\u{fffd}y");
        assert_eq!(
            read(br#"{"a":"\udc00\ud83d\ude00\ud83d"}"#).at("a").str(),
            "\u{fffd}😀\u{fffd}"
        );
        assert_eq!(read(br#"{"a":"\\ud83d","b":"\ud83d"}"#).at("a").str(), "\\ud83d");
        assert_eq!(read("{\"a\":\"x\u{2028}y\"}".as_bytes()).at("a").str(), "x\u{2028}y");
    }

    #[test]
    fn a_member_is_found_as_it_was_written() {
        let line = br#"{"r":{"x":1,"input":{ "a" : "\u00e9", "n":1.50 }},"type":"t"}"#;
        let found = object(line, 100).expect("an object");
        assert_eq!(found.raw(&["r", "input"]), Some(r#"{ "a" : "\u00e9", "n":1.50 }"#));
        assert_eq!(found.raw(&["r", "none"]), None);
        assert_eq!(found.raw(&["type", "input"]), None);
    }

    #[test]
    fn what_comes_after_too_much_is_still_read() {
        let mut line = String::from("{\"big\":[");
        for _ in 0..200_000 {
            line.push_str("[0],");
        }
        line.push_str("0],\"long\":\"");
        line.push_str(&"é".repeat(300_000));
        line.push_str("\",\"more\":{\"x\":[\"late\"]},\"type\":\"result\"}");
        let json = object(line.as_bytes(), 1000).expect("an object").json;
        assert_eq!(json.at("type").str(), "result");
        assert_eq!(json.at("long").str().len(), 1000);
        assert!(json.at("big").list().len() < DEEP);
        assert_eq!(json.path(&["more", "x"]).list(), [Json::Text("late".into())]);
    }

    #[test]
    fn pointers_point() {
        let json = read(br#"{"a":[{"b/c":{"~":7}}]}"#);
        assert_eq!(json.pointer("/a/0/b~1c/~0").int(), Some(7));
        assert_eq!(json.pointer(""), &json);
        assert!(json.pointer("/a/1").is_null() && json.pointer("a").is_null() && json.pointer("/a/x").is_null());
    }
}
