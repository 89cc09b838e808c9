//! Predicates with SQL's three-valued logic: `None` is unknown.

use core::cmp::Ordering;

use super::datum::Datum;
use super::statement::Parameters;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Columns are places in the table's row.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    Compare { column: usize, compare: Compare, value: Datum },
    Columns { left: usize, compare: Compare, right: usize },
    IsNull { column: usize, negated: bool },
    Between { column: usize, low: Datum, high: Datum, negated: bool },
    In { column: usize, list: Vec<Datum>, negated: bool },
    Like { column: usize, pattern: String, negated: bool },
    Not(Box<Predicate>),
    IsUnknown(Box<Predicate>),
    And(Box<Predicate>, Box<Predicate>),
    Or(Box<Predicate>, Box<Predicate>),
}

impl Compare {
    pub const ALL: [Compare; 6] = [
        Compare::Equal,
        Compare::NotEqual,
        Compare::Less,
        Compare::LessOrEqual,
        Compare::Greater,
        Compare::GreaterOrEqual,
    ];

    fn sql(self) -> &'static str {
        match self {
            Compare::Equal => "=",
            Compare::NotEqual => "<>",
            Compare::Less => "<",
            Compare::LessOrEqual => "<=",
            Compare::Greater => ">",
            Compare::GreaterOrEqual => ">=",
        }
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Compare::Equal => order == Ordering::Equal,
            Compare::NotEqual => order != Ordering::Equal,
            Compare::Less => order == Ordering::Less,
            Compare::LessOrEqual => order != Ordering::Greater,
            Compare::Greater => order == Ordering::Greater,
            Compare::GreaterOrEqual => order != Ordering::Less,
        }
    }
}

impl Predicate {
    /// Whether a row is selected: unknown is not.
    #[must_use]
    pub fn selects(&self, row: &[Datum]) -> bool {
        self.evaluate(row) == Some(true)
    }

    /// Made such that it holds for a row.
    #[must_use]
    pub fn rectified(self, row: &[Datum]) -> Predicate {
        match self.evaluate(row) {
            Some(true) => self,
            Some(false) => Predicate::Not(Box::new(self)),
            None => Predicate::IsUnknown(Box::new(self)),
        }
    }

    fn evaluate(&self, row: &[Datum]) -> Option<bool> {
        match self {
            Predicate::Compare { column, compare, value } => {
                row[*column].compare(value).map(|order| compare.holds(order))
            }
            Predicate::Columns { left, compare, right } => {
                row[*left].compare(&row[*right]).map(|order| compare.holds(order))
            }
            Predicate::IsNull { column, negated } => Some(row[*column].is_null() != *negated),
            Predicate::Between { column, low, high, negated } => {
                let above = row[*column].compare(low).map(|order| order != Ordering::Less);
                let below = row[*column].compare(high).map(|order| order != Ordering::Greater);
                negate(and(above, below), *negated)
            }
            Predicate::In { column, list, negated } => {
                let mut found = Some(false);
                for value in list {
                    let equal = row[*column].compare(value).map(|order| order == Ordering::Equal);
                    found = or(found, equal);
                }
                negate(found, *negated)
            }
            Predicate::Like { column, pattern, negated } => match &row[*column] {
                Datum::Text(text) => negate(Some(like(text, pattern)), *negated),
                _ => None,
            },
            Predicate::Not(inner) => negate(inner.evaluate(row), true),
            Predicate::IsUnknown(inner) => Some(inner.evaluate(row).is_none()),
            Predicate::And(left, right) => and(left.evaluate(row), right.evaluate(row)),
            Predicate::Or(left, right) => or(left.evaluate(row), right.evaluate(row)),
        }
    }

    #[must_use]
    pub fn sql(&self, columns: &[String], parameters: &mut Parameters) -> String {
        let not = |negated: &bool| if *negated { "NOT " } else { "" };
        match self {
            Predicate::Compare { column, compare, value } => {
                format!("{} {} {}", columns[*column], compare.sql(), parameters.place(value))
            }
            Predicate::Columns { left, compare, right } => {
                format!("{} {} {}", columns[*left], compare.sql(), columns[*right])
            }
            Predicate::IsNull { column, negated } => {
                format!("{} IS {}NULL", columns[*column], not(negated))
            }
            Predicate::Between { column, low, high, negated } => {
                let low = parameters.place(low);
                let high = parameters.place(high);
                format!("{} {}BETWEEN {low} AND {high}", columns[*column], not(negated))
            }
            Predicate::In { column, list, negated } => {
                let list: Vec<String> = list.iter().map(|value| parameters.place(value)).collect();
                format!("{} {}IN ({})", columns[*column], not(negated), list.join(", "))
            }
            Predicate::Like { column, pattern, negated } => {
                let pattern = parameters.place(&Datum::Text(pattern.clone()));
                format!("{} {}LIKE {pattern}", columns[*column], not(negated))
            }
            Predicate::Not(inner) => format!("NOT ({})", inner.sql(columns, parameters)),
            Predicate::IsUnknown(inner) => {
                format!("({}) IS NULL", inner.sql(columns, parameters))
            }
            Predicate::And(left, right) => {
                let left = left.sql(columns, parameters);
                format!("({left}) AND ({})", right.sql(columns, parameters))
            }
            Predicate::Or(left, right) => {
                let left = left.sql(columns, parameters);
                format!("({left}) OR ({})", right.sql(columns, parameters))
            }
        }
    }
}

fn negate(truth: Option<bool>, negated: bool) -> Option<bool> {
    truth.map(|truth| truth != negated)
}

fn and(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        (None, _) | (_, None) => None,
    }
}

fn or(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        (None, _) | (_, None) => None,
    }
}

/// `%` is any run of characters, `_` any one.
fn like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    // reach[i]: the pattern so far matches the first i characters.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for symbol in pattern {
        let mut next = vec![false; text.len() + 1];
        match symbol {
            '%' => {
                let mut any = false;
                for (index, reached) in reach.iter().enumerate() {
                    any |= reached;
                    next[index] = any;
                }
            }
            symbol => {
                for index in 0..text.len() {
                    next[index + 1] = reach[index] && (symbol == '_' || text[index] == symbol);
                }
            }
        }
        reach = next;
    }
    reach[text.len()]
}

#[cfg(test)]
mod tests {
    use super::{Compare, Datum, Predicate, like};

    #[test]
    fn like_matches_as_the_standard_says() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "_b_", true),
            ("abc", "_b", false),
            ("aXbXc", "a%b%c", true),
            ("Łódź", "Ł_d%", true),
            ("abc", "ABC", false),
        ] {
            assert_eq!(like(text, pattern), expected, "{text} LIKE {pattern}");
        }
    }

    #[test]
    fn null_makes_unknown() {
        let row = [Datum::Null, Datum::Integer(3)];
        let equal = |value| Predicate::Compare { column: 0, compare: Compare::Equal, value };
        assert!(!equal(Datum::Integer(3)).selects(&row));
        assert!(!Predicate::Not(Box::new(equal(Datum::Integer(3)))).selects(&row));
        let list = vec![Datum::Integer(1), Datum::Null];
        let not_in = Predicate::In { column: 1, list, negated: true };
        assert!(!not_in.selects(&row), "3 NOT IN (1, NULL) is unknown");
        let is_null = Predicate::IsNull { column: 0, negated: false };
        let either = Predicate::Or(Box::new(equal(Datum::Integer(1))), Box::new(is_null));
        assert!(either.selects(&row));
    }
}
