//! As much of EDN (what Clojure programs write) as the histories use.

/// A value. Lists and vectors are the same here; a keyword has no colon.
#[derive(Clone, Debug, PartialEq)]
pub enum Edn {
    Nil,
    Number(i64),
    Text(String),
    Word(String),
    List(Vec<Edn>),
    Map(Vec<(Edn, Edn)>),
}

impl Edn {
    /// What a map has under a keyword; nil if nothing.
    pub fn get(&self, name: &str) -> &Edn {
        let Edn::Map(pairs) = self else { panic!("no map: {self:?}") };
        let is_it = |(key, _): &&(Edn, Edn)| *key == Edn::Word(name.to_string());
        pairs.iter().find(is_it).map_or(&Edn::Nil, |(_, value)| value)
    }

    pub fn list(&self) -> &[Edn] {
        let Edn::List(items) = self else { panic!("no list: {self:?}") };
        items
    }

    pub fn word(&self) -> &str {
        let Edn::Word(word) = self else { panic!("no keyword: {self:?}") };
        word
    }

    /// None for nil.
    pub fn number(&self) -> Option<i64> {
        match self {
            Edn::Nil => None,
            Edn::Number(number) => Some(*number),
            other => panic!("no number: {other:?}"),
        }
    }
}

/// The one value of a text.
pub fn parse(text: &str) -> Edn {
    let mut all = parse_all(text);
    assert_eq!(all.len(), 1, "one value in a file");
    all.remove(0)
}

/// All values of a text, one after the other.
pub fn parse_all(text: &str) -> Vec<Edn> {
    let mut reader = Reader { bytes: text.as_bytes(), at: 0 };
    let mut all = Vec::new();
    while reader.peek().is_some() {
        all.push(reader.value());
    }
    all
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next byte that is neither space nor comment.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.bytes.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' | b',' => self.at += 1,
                b';' => {
                    while self.bytes.get(self.at).is_some_and(|byte| *byte != b'\n') {
                        self.at += 1;
                    }
                }
                other => return Some(other),
            }
        }
    }

    fn value(&mut self) -> Edn {
        match self.peek().expect("a value") {
            b'[' => Edn::List(self.until(b']')),
            b'(' => Edn::List(self.until(b')')),
            b'{' => {
                let items = self.until(b'}');
                assert!(items.len().is_multiple_of(2), "{items:?}");
                Edn::Map(items.chunks(2).map(|two| (two[0].clone(), two[1].clone())).collect())
            }
            b'"' => Edn::Text(self.text()),
            _ => self.atom(),
        }
    }

    fn until(&mut self, end: u8) -> Vec<Edn> {
        self.at += 1;
        let mut items = Vec::new();
        while self.peek().expect("it is closed") != end {
            items.push(self.value());
        }
        self.at += 1;
        items
    }

    fn text(&mut self) -> String {
        let mut text = Vec::new();
        loop {
            self.at += 1;
            match self.bytes[self.at] {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    text.push(self.bytes[self.at]);
                }
                byte => text.push(byte),
            }
        }
        self.at += 1;
        String::from_utf8(text).unwrap()
    }

    fn atom(&mut self) -> Edn {
        let ends = |byte: &u8| b" \n\r\t,;[](){}\"".contains(byte);
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        assert!(length > 0, "not EDN at byte {}", self.at);
        let word = std::str::from_utf8(&rest[..length]).unwrap();
        self.at += length;
        match (word, word.strip_prefix(':')) {
            ("nil", _) => Edn::Nil,
            (_, Some(word)) => Edn::Word(word.to_string()),
            (_, None) => Edn::Number(word.parse().unwrap_or_else(|e| panic!("{word}: {e}"))),
        }
    }
}
