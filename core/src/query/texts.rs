//! Room that texts and blobs had, for those to come.
//!
//! Purpose: values of one request after the other, without the allocator. Invariant: what is kept
//! here is empty, asserted where it is taken, so nothing of one request reaches another; and it is
//! bounded, so that a large request is not paid for ever after.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::query::value::Value;

/// Of these, and of more bytes each, room is given back to the allocator.
const SPARE_MAX: usize = 1_024;
const SPARE_SIZE_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub struct Texts {
    spare: Vec<String>,
}

impl Texts {
    #[must_use]
    pub fn text(&mut self, text: &str) -> String {
        let Some(mut room) = self.spare.pop() else { return text.to_owned() };
        assert!(room.is_empty(), "nothing of another request");
        room.push_str(text);
        room
    }

    #[must_use]
    pub fn blob(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(room) = self.spare.pop() else { return bytes.to_owned() };
        assert!(room.is_empty(), "nothing of another request");
        let mut room = room.into_bytes();
        room.extend_from_slice(bytes);
        room
    }

    /// The value is not used any more; its room may be.
    pub fn reuse(&mut self, value: Value) {
        let mut room = match value {
            Value::Text(text) | Value::Json(text) => text.into_bytes(),
            Value::Blob(bytes) => bytes,
            Value::Null
            | Value::Boolean(_)
            | Value::Integer(_)
            | Value::Double(_)
            | Value::Decimal(_)
            | Value::Date(_)
            | Value::Timestamp(_)
            | Value::Uuid(_) => return,
        };
        room.clear();
        let Ok(room) = String::from_utf8(room) else { unreachable!("it is empty") };
        if room.capacity() <= SPARE_SIZE_MAX && self.spare.len() < SPARE_MAX {
            self.spare.push(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_used_again_and_holds_nothing() {
        let mut texts = Texts::default();
        texts.reuse(Value::text("a secret of the one before"));
        texts.reuse(Value::Integer(7));
        texts.reuse(Value::text(&"x".repeat(SPARE_SIZE_MAX + 1)));
        assert_eq!(texts.spare.len(), 1);
        assert_eq!(texts.text("new"), "new");
        assert!(texts.spare.is_empty());
        texts.reuse(Value::Blob(alloc::vec![0xff; 10]));
        assert_eq!(texts.blob(&[0xfe]), [0xfe]);
        (0..2 * SPARE_MAX).for_each(|_| texts.reuse(Value::text("t")));
        assert_eq!(texts.spare.len(), SPARE_MAX);
    }
}
