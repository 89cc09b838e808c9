//! The things whose histories are checked: registers, several of them at once, texts.
//!
//! What a client was refused for good is no operation: it is left out of the history. A compare and
//! set that was answered with *no* is one when the answer says that the value was another one.

use crate::Model;

/// One value, which is none at first. Registers of one history are independent: one check each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register {
    pub initial: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterOp {
    /// What it found.
    Read(Option<i64>),
    Write(i64),
    /// It found `from` and made it `to`.
    Cas {
        from: i64,
        to: i64,
    },
    /// It found something other than `from`.
    CasRefused {
        from: i64,
    },
}

impl Model for Register {
    type Op = RegisterOp;
    type State = Option<i64>;

    fn initial(&self) -> Option<i64> {
        self.initial
    }

    fn step(&self, state: &Option<i64>, op: &RegisterOp) -> Option<Option<i64>> {
        match op {
            RegisterOp::Read(found) => (found == state).then_some(*state),
            RegisterOp::Write(to) => Some(Some(*to)),
            RegisterOp::Cas { from, to } => (*state == Some(*from)).then_some(Some(*to)),
            RegisterOp::CasRefused { from } => (*state != Some(*from)).then_some(*state),
        }
    }

    fn only_reads(&self, op: &RegisterOp) -> bool {
        matches!(op, RegisterOp::Read(_) | RegisterOp::CasRefused { .. })
    }
}

/// Several registers, of which a transaction reads and writes some at one moment.
#[derive(Clone, Debug)]
pub struct Registers {
    pub initial: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Register and what was found there.
    Read(usize, i64),
    Write(usize, i64),
}

impl Model for Registers {
    type Op = Vec<Access>;
    type State = Vec<i64>;

    fn initial(&self) -> Vec<i64> {
        self.initial.clone()
    }

    fn step(&self, state: &Vec<i64>, op: &Vec<Access>) -> Option<Vec<i64>> {
        let mut next = state.clone();
        for access in op {
            match access {
                Access::Read(register, found) if next.get(*register) != Some(found) => return None,
                Access::Read(..) => {}
                Access::Write(register, value) => *next.get_mut(*register)? = *value,
            }
        }
        Some(next)
    }

    fn only_reads(&self, op: &Vec<Access>) -> bool {
        op.iter().all(|access| matches!(access, Access::Read(..)))
    }
}

/// One text of a store of texts, empty at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextOp {
    /// What it found.
    Get(String),
    Put(String),
    Append(String),
}

impl Model for Text {
    type Op = TextOp;
    type State = String;

    fn initial(&self) -> String {
        String::new()
    }

    fn step(&self, state: &String, op: &TextOp) -> Option<String> {
        match op {
            TextOp::Get(found) => (found == state).then(|| state.clone()),
            TextOp::Put(text) => Some(text.clone()),
            TextOp::Append(text) => Some(format!("{state}{text}")),
        }
    }

    fn only_reads(&self, op: &TextOp) -> bool {
        matches!(op, TextOp::Get(_))
    }
}
