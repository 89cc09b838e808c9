//! The results of one request, one for each statement or other operation, in order.
//!
//! Nearly every request has one: it lies in place, so that an answer asks nothing of the allocator.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use super::request::OperationResult;

#[derive(Clone, Default)]
pub struct Results(List);

#[derive(Clone, Default)]
enum List {
    #[default]
    Empty,
    One(OperationResult),
    Many(Vec<OperationResult>),
}

impl Results {
    pub fn push(&mut self, result: OperationResult) {
        self.0 = match core::mem::take(&mut self.0) {
            List::Empty => List::One(result),
            List::One(first) => List::Many(alloc::vec![first, result]),
            List::Many(mut list) => {
                list.push(result);
                List::Many(list)
            }
        };
    }

    pub fn clear(&mut self) {
        self.0 = List::Empty;
    }
}

impl Deref for Results {
    type Target = [OperationResult];

    fn deref(&self) -> &[OperationResult] {
        match &self.0 {
            List::Empty => &[],
            List::One(result) => core::slice::from_ref(result),
            List::Many(list) => list,
        }
    }
}

impl FromIterator<OperationResult> for Results {
    fn from_iter<I: IntoIterator<Item = OperationResult>>(results: I) -> Results {
        let mut all = Results::default();
        results.into_iter().for_each(|result| all.push(result));
        all
    }
}

/// However many there are room for, the results count.
impl PartialEq for Results {
    fn eq(&self, other: &Results) -> bool {
        **self == **other
    }
}

impl Eq for Results {}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ResultDetail;

    #[test]
    fn results_come_in_order_however_many_there_are() {
        let result =
            |operation| OperationResult { operation, rows_affected: 1, detail: ResultDetail::Rows };
        let mut results = Results::default();
        assert!(results.is_empty());
        for count in 1..5 {
            results.push(result(count - 1));
            let operations: Vec<u32> = results.iter().map(|result| result.operation).collect();
            assert_eq!(operations, (0..count).collect::<Vec<_>>());
            assert_eq!(results, (0..count).map(result).collect());
        }
        results.clear();
        assert_eq!(results, Results::default());
    }
}
