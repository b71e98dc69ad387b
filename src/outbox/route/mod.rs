//! The topic of an event: by its type, by the row, by a pattern or a template. A topic that the
//! configuration does not allow is none.

mod pattern;
mod template;

use std::collections::{BTreeMap, HashMap};

use regex::Regex;

use super::MapError;
use super::binding::Row;
use super::columns::{BindError, Field, Layout, MapProblem};
use crate::names::TopicNames;
use crate::pgoutput::Relation;
use pattern::{Pattern, whole};
use template::{BoundTemplate, Template};

/// How events get their topics, as configured: `[route]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteConfig {
    /// The topics of event types; they come first.
    pub map: BTreeMap<String, String>,
    /// Whether a type without a topic is an error, rather than a matter for the others.
    pub only_mapped: bool,
    /// A template: the topic, if all its names have values.
    pub topic: String,
    /// A template: the topic otherwise.
    pub default: String,
    /// The field or column that `regex` looks at.
    pub by: String,
    /// In place of `default`, if it is set: what the value has to match as a whole.
    pub regex: String,
    /// The topic of a value that matches.
    pub replacement: String,
    /// The topics that events may have, as patterns of whole names; all if there are none.
    pub allow: Vec<String>,
    /// What a topic can be called.
    pub names: TopicNames,
}

/// The same, checked against a table.
#[derive(Debug)]
pub(super) struct Router {
    map: HashMap<String, String>,
    only_mapped: bool,
    topic: Template,
    default: Template,
    pattern: Option<Pattern>,
    allow: Vec<Regex>,
    names: TopicNames,
}

impl RouteConfig {
    /// What is wrong with it whatever the table is.
    pub fn problems(&self) -> Vec<MapProblem> {
        let layout = Layout { columns: Vec::new() };
        let unknown = |problem: &MapProblem| !matches!(problem, MapProblem::UnknownName { .. });
        self.compile(&layout).err().unwrap_or_default().into_iter().filter(unknown).collect()
    }

    pub(super) fn compile(&self, layout: &Layout) -> Result<Router, Vec<MapProblem>> {
        let mut problems = Vec::new();
        let mut bad = |key, problem: String| problems.push(MapProblem::BadSetting { key, problem });
        for (event_type, topic) in self.map.iter().filter(|(_, topic)| !self.names.takes(topic)) {
            let problem =
                format!("{event_type:?}: {topic:?} is not a name that {} takes", self.names);
            bad("route.map", problem);
        }
        if self.only_mapped && self.map.is_empty() {
            bad("route.unmapped", "\"error\" without a route.map refuses every event".to_owned());
        }
        let mut pattern = None;
        if self.regex.is_empty() {
            if !self.replacement.is_empty() {
                bad("route.replacement", "it needs a route.regex".to_owned());
            }
        } else {
            match Pattern::new(&self.regex, &self.replacement) {
                Ok(found) => pattern = Some(found),
                Err(problem) => bad("route.regex", format!("{:?}: {problem}", self.regex)),
            }
        }
        let mut allow = Vec::new();
        for text in &self.allow {
            match whole(text) {
                Ok(found) => allow.push(found),
                Err(problem) => bad("route.allow", format!("{text:?}: {problem}")),
            }
        }
        // With a pattern, what it looks at is a template of one name.
        let (key, by) = match pattern {
            Some(_) => ("route.by", format!("{{{}}}", self.by)),
            None => ("route.default", self.default.clone()),
        };
        let templates = (
            Template::compile("route.topic", &self.topic, layout),
            Template::compile(key, &by, layout),
        );
        match templates {
            (Ok(topic), Ok(default)) if problems.is_empty() => Ok(Router {
                map: self.map.clone().into_iter().collect(),
                only_mapped: self.only_mapped,
                topic,
                default,
                pattern,
                allow,
                names: self.names,
            }),
            (topic, default) => {
                problems.extend(topic.err());
                problems.extend(default.err());
                Err(problems)
            }
        }
    }
}

impl Router {
    /// Finds the columns in the rows that follow `relation`.
    ///
    /// # Errors
    /// A column is missing or has another type.
    pub(super) fn bind(&self, relation: &Relation) -> Result<BoundRouter, BindError> {
        Ok(BoundRouter {
            map: self.map.clone(),
            only_mapped: self.only_mapped,
            topic: self.topic.bind(relation)?,
            default: self.default.bind(relation)?,
            pattern: self.pattern.clone(),
            allow: self.allow.clone(),
            names: self.names,
        })
    }
}

/// A [`Router`] over the rows of one layout.
#[derive(Debug)]
pub(super) struct BoundRouter {
    map: HashMap<String, String>,
    only_mapped: bool,
    topic: BoundTemplate,
    default: BoundTemplate,
    pattern: Option<Pattern>,
    allow: Vec<Regex>,
    names: TopicNames,
}

/// The topic of the last row; its memory is reused for the next.
#[derive(Debug, Default)]
pub(super) struct Routed {
    pub(super) topic: String,
    /// What the pattern looked at.
    value: String,
    /// The last topic that was in order, so that one topic is not checked for every event.
    good: String,
}

impl BoundRouter {
    /// Finds the topic of `row`.
    ///
    /// # Errors
    /// It has none that is a name and allowed.
    pub(super) fn route(&self, row: &Row<'_, '_>, routed: &mut Routed) -> Result<(), MapError> {
        let Routed { topic, value, good } = routed;
        self.find(row, topic, value)?;
        if topic != good {
            if !self.names.takes(topic) {
                return Err(MapError::BadTopic(self.names));
            }
            if !self.allow.is_empty() && !self.allow.iter().any(|allowed| allowed.is_match(topic)) {
                return Err(MapError::NotAllowed);
            }
            good.clone_from(topic);
        }
        Ok(())
    }

    fn find(
        &self,
        row: &Row<'_, '_>,
        topic: &mut String,
        value: &mut String,
    ) -> Result<(), MapError> {
        if !self.map.is_empty() {
            let event_type = row.text(Field::EventType)?;
            if let Some(mapped) = event_type.and_then(|event_type| self.map.get(&*event_type)) {
                topic.clone_from(mapped);
                return Ok(());
            }
            if self.only_mapped {
                return Err(MapError::Unmapped);
            }
        }
        if self.topic.render(row, topic)? {
            return Ok(());
        }
        let Some(pattern) = &self.pattern else {
            return self.default.render(row, topic)?.then_some(()).ok_or(MapError::NoTopic);
        };
        if !self.default.render(row, value)? {
            return Err(MapError::NoTopic);
        }
        topic.clear();
        pattern.apply(value, topic);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(change: impl FnOnce(&mut RouteConfig)) -> Vec<String> {
        let mut config = RouteConfig { topic: "{topic}".to_owned(), ..RouteConfig::default() };
        config.by = "aggregate_type".to_owned();
        change(&mut config);
        config.problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_wrong_route_is_told_at_the_start() {
        assert_eq!(problems(|config| config.default = "{any_column}".to_owned()), [""; 0]);
        let map = |topic: &str| [("A".to_owned(), topic.to_owned())].into();
        assert_eq!(
            problems(|config| config.map = map("a b")),
            [r#"route.map: "A": "a b" is not a name that Kafka takes"#]
        );
        assert_eq!(
            problems(|config| config.only_mapped = true),
            [r#"route.unmapped: "error" without a route.map refuses every event"#]
        );
        assert_eq!(
            problems(|config| config.regex = "(".to_owned()),
            [r#"route.regex: "(": unclosed group"#]
        );
        assert_eq!(
            problems(|config| config.replacement = "$1".to_owned()),
            ["route.replacement: it needs a route.regex"]
        );
        assert_eq!(
            problems(|config| config.allow = vec!["a".to_owned(), "[".to_owned()]),
            [r#"route.allow: "[": unclosed character class"#]
        );
    }
}
