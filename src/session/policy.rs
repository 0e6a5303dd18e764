//! Rules that answer questions for permission at once. Pure: what an agent wants is compared with what rules say, by its letters alone.
//!
//! A rule that allows is read narrowly, and one that denies or has somebody asked widely: where it is not certain that a rule is meant, nobody gets more than without it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::dialect::{NamedPath, Permission, Subject};

/// Rules of one agent, or of all.
const RULES: usize = 256;
/// Bytes of a pattern, and its stars.
const PATTERN: usize = 4 << 10;
const STARS: usize = 16;
/// Bytes of a command in which parts are looked for. What is longer is asked about.
const COMMAND: usize = 32 << 10;
/// What one question may cost, in bytes that are compared with bytes: rules decide in the agent's own task. Beyond it somebody is asked.
const WORK: usize = 256 << 20;
/// What a byte costs besides.
const EACH: usize = 16;

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleDecision {
    /// It is allowed, this once.
    Allow,
    /// It is denied.
    Deny,
    /// Somebody is asked, whatever later rules say.
    Ask,
}

impl RuleDecision {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleDecision::Allow => "allow",
            RuleDecision::Deny => "deny",
            RuleDecision::Ask => "ask",
        }
    }
}

/// A rule about what an agent wants to be allowed. As a text: `Bash(git status*)`, or only `Bash`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermissionRule {
    /// What it says.
    pub decision: RuleDecision,
    /// Which tools, by the agent's names of them, without regard to case; `*` stands for any characters.
    pub tool: String,
    /// What of them, by the command, the path or the address that they are given; `*` stands for any characters. Everything without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
}

impl PermissionRule {
    /// Reads a rule as it is written on the command line: `Bash(git status*)`, or only `Bash`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(decision: RuleDecision, text: &str) -> Result<Self, String> {
        let (tool, matches) = match text.split_once('(') {
            None => (text, None),
            Some((tool, rest)) => match rest.strip_suffix(')') {
                Some(pattern) => (tool, Some(pattern.to_owned())),
                None => return Err(format!("'{text}' has no ')' at its end")),
            },
        };
        let rule = PermissionRule {
            decision,
            tool: tool.trim().to_owned(),
            matches,
        };
        rule.check()?;
        Ok(rule)
    }

    /// Whether it can be meant.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let is_sound = |text: &str, most: usize| {
            !text.trim().is_empty()
                && text.len() <= most
                && !text.chars().any(char::is_control)
                && text.matches('*').count() <= STARS
        };
        if !is_sound(&self.tool, 256) || self.tool.contains(['(', ')']) {
            return Err(format!(
                "'{}' names no tool: a name such as Bash, in which '*' stands for any characters",
                self.tool.escape_debug()
            ));
        }
        match &self.matches {
            Some(pattern) if !is_sound(pattern, PATTERN) => Err(format!(
                "the pattern of '{}' is empty, longer than {PATTERN} bytes, on several lines, or has more than {STARS} '*'",
                self.tool
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for PermissionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.decision.as_str(), self.tool)?;
        match &self.matches {
            Some(pattern) => write!(f, "({pattern})"),
            None => Ok(()),
        }
    }
}

impl FromStr for PermissionRule {
    type Err = String;

    /// `allow Bash(git status*)`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let decision = match word {
            "allow" => RuleDecision::Allow,
            "deny" => RuleDecision::Deny,
            "ask" => RuleDecision::Ask,
            _ => return Err(format!("'{word}' is none of allow, deny and ask")),
        };
        Self::parse(decision, rest.trim_start())
    }
}

/// Whether these can be the rules of one agent.
///
/// # Errors
/// What is wrong with the first that cannot.
pub fn check_rules(rules: &[PermissionRule]) -> Result<(), String> {
    if rules.len() > RULES {
        return Err(format!("there are more than {RULES} rules for permissions"));
    }
    rules.iter().try_for_each(PermissionRule::check)
}

/// A rule, and where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// `server` or `agent`.
    pub of: &'static str,
    /// Counted from 1 there.
    pub number: usize,
    pub rule: PermissionRule,
}

/// What an agent may do without asking anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// What the server's configuration denies or has asked, what the agent's own rules say, and what the server allows.
    lists: [Vec<Placed>; 3],
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ruling<'a> {
    /// This rule decides.
    By(&'a Placed),
    /// Somebody is asked: this rule says so, or it is not certain that it is not meant.
    Ask(&'a Placed),
    /// No rule is meant.
    Nobody,
}

impl Policy {
    /// What the server's configuration denies, or has somebody asked about, comes before an agent's own rules, and what it allows after them. An agent's can only be stricter: where the server has somebody asked, one of the agent's that denies still denies, and one that allows does not count.
    pub fn new(server: &[PermissionRule], agent: &[PermissionRule]) -> Self {
        let placed = |of: &'static str, rules: &[PermissionRule]| -> Vec<Placed> {
            let numbered = rules.iter().cloned().enumerate();
            numbered
                .map(|(at, rule)| Placed {
                    of,
                    number: at + 1,
                    rule,
                })
                .collect()
        };
        let (after, before) = placed("server", server)
            .into_iter()
            .partition(|one| one.rule.decision == RuleDecision::Allow);
        Policy {
            lists: [before, placed("agent", agent), after],
        }
    }

    /// What the first rule that is meant says.
    pub fn decide(&self, asked: &Permission) -> Ruling<'_> {
        let mut question = Asked::new(asked);
        let mut found = Ruling::Nobody;
        for list in &self.lists {
            let said = question.first(list);
            let denies = matches!(said, Ruling::By(one) if one.rule.decision == RuleDecision::Deny);
            match found {
                _ if denies => return said,
                // What was found before is not made weaker by any list.
                Ruling::Nobody => found = said,
                Ruling::By(_) | Ruling::Ask(_) => {}
            }
        }
        found
    }
}

/// A question as rules look at it, prepared once for all of them.
struct Asked<'a> {
    subject: &'a Subject,
    /// It is about more than its subject says.
    is_part: bool,
    names: [String; 2],
    /// Commands or an address, in every way in which a rule that denies looks at them.
    texts: Vec<String>,
    /// Somebody else replaces something of it before it is executed, so what is not found may be there.
    is_replaced: bool,
    /// Too long to be looked through.
    is_long: bool,
    bytes: usize,
    /// What it may still cost.
    left: usize,
}

impl<'a> Asked<'a> {
    fn new(asked: &'a Permission) -> Self {
        let (subject, is_part) = match &asked.subject {
            Subject::Part(part) => (&**part, true),
            subject => (subject, false),
        };
        let mut question = Asked {
            subject,
            is_part,
            names: [asked.name.to_lowercase(), asked.tool.to_lowercase()],
            texts: Vec::new(),
            is_replaced: false,
            is_long: false,
            bytes: 0,
            left: WORK,
        };
        match subject {
            Subject::Commands(lines) => {
                question.is_long = lines.iter().any(|one| one.written.len() > COMMAND);
                if !question.is_long {
                    let mut texts: Vec<&str> = lines.iter().flat_map(|one| [&*one.written, &*one.line]).collect();
                    texts.dedup();
                    question.is_replaced = texts.iter().any(|line| is_replaced(line));
                    question.texts = texts.iter().flat_map(|line| spellings(line)).collect();
                }
                question.bytes = lines.iter().map(|one| one.written.len() + one.line.len()).sum();
            }
            Subject::Text(text) => {
                question.is_long = text.len() > COMMAND;
                question.texts = vec![folded(text), folded(&text.to_lowercase())];
                question.bytes = text.len();
            }
            Subject::Paths(paths) | Subject::Below(paths) => {
                question.bytes = paths.iter().map(|one| one.path.len() + one.absolute.len()).sum();
            }
            _ => {}
        }
        question.bytes += question.texts.iter().map(String::len).sum::<usize>();
        question
    }

    /// What the first rule of a list that is meant says. One of which it is not certain allows nothing of what comes after it.
    fn first<'r>(&mut self, rules: &'r [Placed]) -> Ruling<'r> {
        let mut asks = None;
        for one in rules {
            let rule = &one.rule;
            let tool = rule.tool.to_lowercase();
            let is_named = glob(&tool, &self.names[0]);
            let (decision, pattern) = (rule.decision, rule.matches.as_deref());
            let is_meant = match decision {
                RuleDecision::Allow if !is_named => Some(false),
                RuleDecision::Allow => Some(pattern.is_none_or(|pattern| self.pays(pattern) && self.allows(pattern))),
                _ if !is_named && !glob(&tool, &self.names[1]) => Some(false),
                _ => pattern.map_or(Some(true), |pattern| match self.pays(pattern) {
                    true => self.touches(pattern),
                    false => None,
                }),
            };
            match (decision, is_meant, asks) {
                (_, Some(false), _) => {}
                (RuleDecision::Deny, Some(true), _) => return Ruling::By(one),
                (RuleDecision::Allow, _, None) => return Ruling::By(one),
                (RuleDecision::Ask, Some(true), None) => return Ruling::Ask(one),
                (RuleDecision::Allow | RuleDecision::Ask, Some(true), Some(first)) => return Ruling::Ask(first),
                (_, _, first) => asks = first.or(Some(one)),
            }
        }
        asks.map_or(Ruling::Nobody, Ruling::Ask)
    }

    /// Whether it may still be compared with this pattern.
    fn pays(&mut self, pattern: &str) -> bool {
        let cost = self.bytes.saturating_mul(pattern.len() + EACH);
        let left = self.left.checked_sub(cost);
        self.left = left.unwrap_or_default();
        left.is_some()
    }

    /// Whether a rule that allows means this, all of it.
    fn allows(&self, pattern: &str) -> bool {
        if self.is_part {
            return false;
        }
        match self.subject {
            Subject::Commands(lines) => lines.iter().all(|one| {
                let line = one.line.trim_matches([' ', '\t', '\n']);
                let is_said = one.written == pattern || line == pattern;
                is_said || (!is_compound(line) && glob(pattern, line))
            }),
            Subject::Paths(paths) | Subject::Below(paths) => paths.iter().all(|one| allows_path(pattern, one)),
            Subject::Text(text) => glob(pattern, text),
            _ => false,
        }
    }

    /// Whether a rule that denies may mean any part of this; nothing where that cannot be said.
    fn touches(&self, pattern: &str) -> Option<bool> {
        let is_found = match self.subject {
            Subject::Commands(_) | Subject::Text(_) if self.is_long => None,
            Subject::Commands(_) => {
                let pattern = folded(pattern);
                match self.texts.iter().any(|text| between_words(&pattern, text)) {
                    false if self.is_replaced => None,
                    is_found => Some(is_found),
                }
            }
            Subject::Text(_) => {
                let patterns = [folded(pattern), folded(&pattern.to_lowercase())];
                let mut both = patterns.iter().zip(&self.texts);
                Some(both.any(|(pattern, text)| between_words(pattern, text)))
            }
            Subject::Paths(paths) => Some(paths.iter().any(|one| touches_path(pattern, &one.path, &one.absolute))),
            Subject::Below(paths) => {
                let directories = || paths.iter().map(|one| (fixed(&one.path), fixed(&one.absolute)));
                match directories().any(|(path, absolute)| touches_path(pattern, path, absolute)) {
                    true => Some(true),
                    false if directories().any(|(path, absolute)| may_be_below(pattern, path, absolute)) => None,
                    false => Some(false),
                }
            }
            _ => None,
        };
        is_found.filter(|is_found| *is_found || !self.is_part)
    }
}

/// Whether a pattern stands for a text; `*` for any characters, none included.
fn glob(pattern: &str, text: &str) -> bool {
    at_beginning(pattern, text, |at| at == text.len())
}

/// Whether a pattern stands for a beginning of a text that ends where `is_end` says.
fn at_beginning(pattern: &str, text: &str, is_end: impl Fn(usize) -> bool) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    if !text.starts_with(first) {
        return false;
    }
    let mut at = first.len();
    let Some(last) = parts.next_back() else {
        return is_end(at);
    };
    // The first place that will do leaves the most room.
    for part in parts {
        match text[at..].find(part) {
            Some(found) => at += found + part.len(),
            None => return false,
        }
    }
    if last.is_empty() {
        return true;
    }
    let ends = text[at..].char_indices().map(|(found, _)| at + found);
    ends.filter(|begin| text[*begin..].starts_with(last))
        .any(|begin| is_end(begin + last.len()))
}

/// Whether a shell makes more of a command than one program with its words: more programs, or what another one prints, or another file.
fn is_compound(command: &str) -> bool {
    command.contains([';', '&', '|', '<', '>', '$', '(', ')', '`'])
        || command.chars().any(|c| c.is_control() && c != '\t')
}

/// Whether a shell may make something else of a word of this: another pattern can be hidden in it.
fn is_replaced(command: &str) -> bool {
    let words = command.split(|c: char| c.is_whitespace() || [';', '&', '|'].contains(&c));
    let mut words = words.filter(|word| !["{", "[", "[["].contains(word));
    words.any(|word| word.contains(['$', '`', '{', '*', '?', '[']))
}

/// A command in the ways in which it could be written, with one blank for each run of white space: what shells join, and without what they take away.
fn spellings(command: &str) -> [String; 3] {
    let joined = command.replace("\\\n", "");
    let bare: String = joined.chars().filter(|c| !['\'', '"', '\\'].contains(c)).collect();
    [folded(command), folded(&joined), folded(&bare)]
}

/// With one blank for each run of white space.
fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_whitespace() {
            true if out.ends_with(' ') => {}
            true => out.push(' '),
            false => out.push(c),
        }
    }
    out
}

/// Whether a rule that allows means a path: outside of the workspace by a pattern that begins at the root, and in git's own directory by one that names it.
fn allows_path(pattern: &str, one: &NamedPath) -> bool {
    let is_git = |path: &str| path.split('/').any(|name| name.eq_ignore_ascii_case(".git"));
    if is_git(&one.path) && !is_git(pattern) {
        return false;
    }
    match pattern.starts_with('/') {
        true => glob(pattern, &one.absolute),
        false => !one.path.starts_with('/') && glob(pattern, &one.path),
    }
}

/// Whether a pattern stands for a path, for a directory that it is in, or without a `/` for any name in it.
fn touches_path(pattern: &str, path: &str, absolute: &str) -> bool {
    let is_above = |path: &str| at_beginning(pattern, path, |at| at == path.len() || path[at..].starts_with('/'));
    is_above(path) || is_above(absolute) || (!pattern.contains('/') && path.split('/').any(|name| glob(pattern, name)))
}

/// What of a path is a directory and no pattern.
fn fixed(path: &str) -> &str {
    let Some(at) = path.find(['*', '?', '[', '{', '(', '!', '|']) else {
        return path;
    };
    match path[..at].rfind('/') {
        Some(0) => "/",
        Some(end) => &path[..end],
        None => ".",
    }
}

/// Whether a pattern may stand for something below a directory.
fn may_be_below(pattern: &str, path: &str, absolute: &str) -> bool {
    // By its name, anywhere.
    if !pattern.contains('/') || pattern.starts_with('*') {
        return true;
    }
    let (first, has_star) = match pattern.split_once('*') {
        Some((first, _)) => (first, true),
        None => (pattern, false),
    };
    let is_below = |directory: &str| {
        let directory = format!("{}/", directory.trim_end_matches('/'));
        first.starts_with(&directory) || (has_star && directory.starts_with(first))
    };
    match pattern.starts_with('/') {
        true => is_below(absolute),
        // Of a directory outside it is not known here whether the workspace is in it.
        false => path == "." || path.starts_with('/') || is_below(path),
    }
}

fn between_words(pattern: &str, text: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || ['-', '_', '.'].contains(&c);
    let is_end = |at: usize| text[at..].chars().next().is_none_or(|c| !is_word(c));
    let pattern = pattern.trim();
    if pattern.starts_with('*') {
        return at_beginning(pattern, text, is_end);
    }
    let is_begin = |at: usize| text[..at].chars().next_back().is_none_or(|c| !is_word(c));
    let first = pattern.split('*').next().unwrap_or_default();
    let places = text.char_indices().map(|(at, _)| at);
    let mut begins = places.filter(|at| text[*at..].starts_with(first) && is_begin(*at));
    let ends_well = |at: usize| at_beginning(pattern, &text[at..], |end| is_end(at + end));
    match pattern.contains('*') {
        // What comes after a star is as far as it is: the first place leaves the most room, and the others are not looked at.
        true => begins.next().is_some_and(ends_well),
        false => begins.any(ends_well),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
