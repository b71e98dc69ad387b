//! The topic of an event: the first template whose columns are all set.

use super::binding::Row;
use super::columns::{BindError, Field, Layout, LayoutColumn, MapProblem, place_of};
use crate::pgoutput::Relation;

/// Text with `{names}` of fields or columns in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
    Column(LayoutColumn),
}

impl Template {
    /// Reads `text`, the value of the configuration's `key`. A name is a field of the event if
    /// there is one of that name, else a column of the table.
    ///
    /// # Errors
    /// Braces that do not match, or a name that is neither.
    pub(super) fn compile(
        key: &'static str,
        text: &str,
        layout: &Layout,
    ) -> Result<Self, MapProblem> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else {
                return Err(MapProblem::BadTemplate { key, problem: "a \"{\" without its \"}\"" });
            };
            parts.push(Part::Text(before.to_owned()));
            parts.push(match (Field::by_name(name), layout.column(name)) {
                (Some(field), _) => Part::Field(field),
                (None, Some(column)) => Part::Column(column.clone()),
                (None, None) => {
                    return Err(MapProblem::UnknownName { key, name: name.to_owned() });
                }
            });
            rest = behind;
        }
        if rest.contains('}') {
            return Err(MapProblem::BadTemplate { key, problem: "a \"}\" without its \"{\"" });
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        Ok(Self { parts })
    }

    /// Finds the columns in the rows that follow `relation`.
    ///
    /// # Errors
    /// A column is missing or has another type.
    pub(super) fn bind(&self, relation: &Relation) -> Result<BoundTemplate, BindError> {
        let bind = |part: &Part| match part {
            Part::Text(text) => Ok(BoundPart::Text(text.clone())),
            Part::Field(field) => Ok(BoundPart::Field(*field)),
            Part::Column(column) => place_of(column, relation).map(BoundPart::Place),
        };
        Ok(BoundTemplate { parts: self.parts.iter().map(bind).collect::<Result<_, _>>()? })
    }
}

/// A [`Template`] over the rows of one layout.
#[derive(Debug)]
pub(super) struct BoundTemplate {
    parts: Vec<BoundPart>,
}

#[derive(Debug)]
enum BoundPart {
    Text(String),
    Field(Field),
    Place(usize),
}

impl BoundTemplate {
    /// Puts the text into `out`; false, with nothing of use in `out`, if a name has no value or an
    /// empty one.
    pub(super) fn render(
        &self,
        row: &Row<'_, '_>,
        out: &mut String,
    ) -> Result<bool, super::MapError> {
        out.clear();
        for part in &self.parts {
            let value = match part {
                BoundPart::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                BoundPart::Field(field) => row.text(*field)?,
                BoundPart::Place(place) => row.text_at(*place)?.map(Into::into),
            };
            match value {
                Some(value) if !value.is_empty() => out.push_str(&value),
                _ => return Ok(false),
            }
        }
        Ok(!out.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_template_is_told_at_the_start() {
        let layout = Layout { columns: Vec::new() };
        let problem = |text| Template::compile("route.topic", text, &layout).unwrap_err();
        assert_eq!(
            problem("{nope}").to_string(),
            "route.topic: \"nope\" is neither a field of the event nor a column of the table"
        );
        assert_eq!(problem("a{topic").to_string(), "route.topic: a \"{\" without its \"}\"");
        assert_eq!(problem("a}topic").to_string(), "route.topic: a \"}\" without its \"{\"");
    }
}
