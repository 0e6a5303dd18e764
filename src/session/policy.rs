//! Rules that answer questions for permission at once. Pure: what an agent wants is compared with what rules say, by its letters alone.
//!
//! A rule that allows is read narrowly, and one that denies or has somebody asked widely: where it is not certain that a rule is meant, nobody gets more than without it.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::dialect::{Permission, Subject};

/// Rules of one agent, or of all.
const RULES: usize = 256;
/// Bytes of a pattern, and its stars.
const PATTERN: usize = 4 << 10;
const STARS: usize = 16;
/// Bytes of a command in which parts are looked for. What is longer is asked about.
const COMMAND: usize = 32 << 10;

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

/// What an agent may do without asking anybody, in the order in which rules are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Policy(Vec<Placed>);

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
    /// What the server's configuration denies, or has somebody asked about, comes before an agent's own rules, and what it allows after them: an agent's can only be stricter.
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
        let (after, mut all): (Vec<_>, Vec<_>) = placed("server", server)
            .into_iter()
            .partition(|one| one.rule.decision == RuleDecision::Allow);
        all.extend(placed("agent", agent));
        all.extend(after);
        Policy(all)
    }

    /// What the first rule that is meant says.
    pub fn decide(&self, asked: &Permission) -> Ruling<'_> {
        for one in &self.0 {
            let rule = &one.rule;
            let names = |name: &str| glob(&rule.tool.to_lowercase(), &name.to_lowercase());
            match (rule.decision, rule.matches.as_deref()) {
                (RuleDecision::Allow, None) if names(&asked.name) => return Ruling::By(one),
                (RuleDecision::Allow, Some(pattern)) if names(&asked.name) && allows(pattern, &asked.subject) => {
                    return Ruling::By(one);
                }
                (RuleDecision::Allow, _) => {}
                _ if !names(&asked.name) && !names(&asked.tool) => {}
                (RuleDecision::Ask, None) => return Ruling::Ask(one),
                (RuleDecision::Deny, None) => return Ruling::By(one),
                (decision, Some(pattern)) => match touches(pattern, &asked.subject) {
                    Some(false) => {}
                    Some(true) if decision == RuleDecision::Deny => return Ruling::By(one),
                    _ => return Ruling::Ask(one),
                },
            }
        }
        Ruling::Nobody
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

/// Whether a rule that allows means this, all of it.
fn allows(pattern: &str, subject: &Subject) -> bool {
    match subject {
        Subject::Commands(lines) => lines.iter().all(|line| {
            let line = line.trim();
            line == pattern || (!is_compound(line) && glob(pattern, line))
        }),
        Subject::Paths(paths) => paths.iter().all(|one| {
            let is_inside = !one.path.starts_with('/');
            glob(pattern, &one.path) || (is_inside && pattern.starts_with('/') && glob(pattern, &one.absolute))
        }),
        Subject::Text(text) => glob(pattern, text),
        _ => false,
    }
}

/// Whether a rule that denies may mean any part of this; nothing where that cannot be said.
fn touches(pattern: &str, subject: &Subject) -> Option<bool> {
    match subject {
        Subject::Commands(lines) => {
            let found: Vec<_> = lines.iter().map(|line| is_part(pattern, line)).collect();
            match found.contains(&Some(true)) {
                true => Some(true),
                false if found.contains(&None) => None,
                false => Some(false),
            }
        }
        Subject::Paths(paths) => Some(paths.iter().any(|one| {
            let mut above = ancestors(&one.path).chain(ancestors(&one.absolute));
            let by_name = || !pattern.contains('/') && one.path.split('/').any(|name| glob(pattern, name));
            above.any(|path| glob(pattern, path)) || by_name()
        })),
        Subject::Text(text) => is_part(pattern, text),
        _ => None,
    }
}

/// A path, and the directories that it is in.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
    ends.chain([path.len()]).map(|end| &path[..end])
}

/// Whether a pattern stands for anything between two borders of words in a command: also after `;`, in quotes, or behind the directory of a program. Nothing where it is too long to be looked through.
fn is_part(pattern: &str, command: &str) -> Option<bool> {
    if command.len() > COMMAND {
        return None;
    }
    let bare: String = command.chars().filter(|c| !['\'', '"', '\\'].contains(c)).collect();
    let texts = [Cow::Borrowed(command), Cow::Owned(bare)];
    Some(texts.iter().any(|text| between_words(pattern, text)))
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
