//! A reader of JSON that shares nothing with the product's. It keeps repeated keys, and numbers as they are written.
//! Source: RFC 8259.

/// The depth above which this reader refuses a text, for the sake of its stack.
pub const DEPTH_MAX: usize = 1000;
/// The depth to which any reader can follow. A deeper text may be refused or not.
pub const DEPTH_SAFE: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doc {
    Null,
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A text. `None` means that it is no Unicode: it has bytes that are not UTF-8, or half of a surrogate pair.
    Text(Option<String>),
    List(Vec<Doc>),
    Object(Vec<(Option<String>, Doc)>),
}

/// Reads a JSON text. `None` means that it is none, or that it is too deep.
pub fn parse(bytes: &[u8]) -> Option<Doc> {
    let mut reader = Reader { bytes, at: 0 };
    let doc = reader.value(0)?;
    reader.blanks();
    (reader.at == bytes.len()).then_some(doc)
}

impl Doc {
    pub fn members(&self) -> Option<&[(Option<String>, Self)]> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    pub fn list(&self) -> Option<&[Self]> {
        if let Self::List(docs) = self { Some(docs) } else { None }
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { text.as_deref() } else { None }
    }

    /// Reads a whole number as every client writes it: no sign but a minus, no fraction, no exponent, no `-0`.
    pub fn whole(&self) -> Option<i128> {
        let Self::Number(text) = self else { return None };
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_whole = digits.bytes().all(|byte| byte.is_ascii_digit()) && text != "-0";
        // Longer numbers are out of every range, and they would overflow the callers' arithmetic.
        (is_whole && digits.len() <= 30).then(|| text.parse().ok()).flatten()
    }

    /// Returns the only member of a name. `None` means that it is missing or stands there twice.
    pub fn member(&self, name: &str) -> Option<&Self> {
        let mut found = self.members()?.iter().filter(|(key, _)| key.as_deref() == Some(name));
        let (_, doc) = found.next()?;
        found.next().is_none().then_some(doc)
    }

    pub fn has(&self, name: &str) -> bool {
        self.members().is_some_and(|members| members.iter().any(|(key, _)| key.as_deref() == Some(name)))
    }

    /// Returns whether this is an object with the required members, perhaps the optional ones, and nothing else.
    pub fn is_object_of(&self, required: &[&str], optional: &[&str]) -> bool {
        let Some(members) = self.members() else { return false };
        let is_known = |name: &str| required.contains(&name) || optional.contains(&name);
        let is_single = |name: &str| self.member(name).is_some();
        members.iter().all(|(name, _)| name.as_deref().is_some_and(|name| is_known(name) && is_single(name)))
            && required.iter().all(|name| is_single(name))
    }

    /// Returns whether everything in it is Unicode.
    fn is_unicode(&self) -> bool {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => true,
            Self::Text(text) => text.is_some(),
            Self::List(docs) => docs.iter().all(Self::is_unicode),
            Self::Object(members) => members.iter().all(|(name, doc)| name.is_some() && doc.is_unicode()),
        }
    }

    /// Returns whether a reader of 64-bit floats can hold all its numbers.
    fn is_finite(&self) -> bool {
        match self {
            Self::Null | Self::Bool(_) | Self::Text(_) => true,
            Self::Number(text) => text.parse::<f64>().is_ok_and(f64::is_finite),
            Self::List(docs) => docs.iter().all(Self::is_finite),
            Self::Object(members) => members.iter().all(|(_, doc)| doc.is_finite()),
        }
    }

    pub fn depth(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) => 0,
            Self::List(docs) => 1 + docs.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => 1 + members.iter().map(|(_, doc)| doc.depth()).max().unwrap_or(0),
        }
    }

    /// Returns whether no reader has a reason of its own to refuse it.
    pub fn is_plain(&self) -> bool {
        self.is_unicode() && self.is_finite() && self.depth() < DEPTH_SAFE
    }

    /// Follows a JSON pointer. Source: RFC 6901.
    pub fn at(&self, pointer: &str) -> Option<&Self> {
        let mut here = self;
        for name in pointer.split('/').skip(1) {
            let name = name.replace("~1", "/").replace("~0", "~");
            here = match here {
                Self::List(docs) => docs.get(name.parse::<usize>().ok()?)?,
                Self::Object(members) => {
                    &members.iter().find(|(key, _)| key.as_deref() == Some(name.as_str()))?.1
                }
                _ => return None,
            };
        }
        Some(here)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn takes(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<Doc> {
        self.blanks();
        match self.peek()? {
            b'n' => self.takes(b"null").map(|()| Doc::Null),
            b't' => self.takes(b"true").map(|()| Doc::Bool(true)),
            b'f' => self.takes(b"false").map(|()| Doc::Bool(false)),
            b'"' => self.text().map(Doc::Text),
            b'[' if depth < DEPTH_MAX => self.list(depth),
            b'{' if depth < DEPTH_MAX => self.object(depth),
            b'-' | b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    fn list(&mut self, depth: usize) -> Option<Doc> {
        self.at += 1;
        let mut docs = Vec::new();
        self.blanks();
        if self.takes(b"]").is_some() {
            return Some(Doc::List(docs));
        }
        loop {
            docs.push(self.value(depth + 1)?);
            self.blanks();
            match self.next()? {
                b',' => {}
                b']' => return Some(Doc::List(docs)),
                _ => return None,
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<Doc> {
        self.at += 1;
        let mut members = Vec::new();
        self.blanks();
        if self.takes(b"}").is_some() {
            return Some(Doc::Object(members));
        }
        loop {
            self.blanks();
            if self.peek()? != b'"' {
                return None;
            }
            let name = self.text()?;
            self.blanks();
            self.takes(b":")?;
            members.push((name, self.value(depth + 1)?));
            self.blanks();
            match self.next()? {
                b',' => {}
                b'}' => return Some(Doc::Object(members)),
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<Doc> {
        let from = self.at;
        let _minus = self.takes(b"-");
        if self.takes(b"0").is_none() {
            self.digits()?;
        }
        if self.takes(b".").is_some() {
            self.digits()?;
        }
        if self.peek().is_some_and(|byte| matches!(byte, b'e' | b'E')) {
            self.at += 1;
            if self.peek().is_some_and(|byte| matches!(byte, b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.bytes[from..self.at]).ok()?;
        Some(Doc::Number(text.to_owned()))
    }

    fn digits(&mut self) -> Option<()> {
        let count = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }

    /// Reads a text. The outer `None` means that there is no text, and the inner one that it is no Unicode.
    fn text(&mut self) -> Option<Option<String>> {
        self.at += 1;
        let mut content = Vec::new();
        let mut is_unicode = true;
        loop {
            match self.next()? {
                b'"' => {
                    let text = String::from_utf8(content).ok();
                    return Some(text.filter(|_| is_unicode));
                }
                b'\\' => match self.escape()? {
                    Some(c) => content.extend(c.to_string().bytes()),
                    None => is_unicode = false,
                },
                ..=0x1f => return None,
                byte => content.push(byte),
            }
        }
    }

    fn escape(&mut self) -> Option<Option<char>> {
        Some(Some(match self.next()? {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            b'u' => return self.unit().map(|unit| self.code_point(unit)),
            _ => return None,
        }))
    }

    fn unit(&mut self) -> Option<u16> {
        let digits = self.bytes.get(self.at..self.at + 4)?;
        let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
        self.at += 4;
        u16::from_str_radix(text, 16).ok()
    }

    /// Returns the character of a UTF-16 unit. For the first unit of a pair it reads the second one too.
    fn code_point(&mut self, first: u16) -> Option<char> {
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(u32::from(first));
        }
        let before = self.at;
        self.takes(b"\\u")?;
        let second = self.unit();
        if !second.is_some_and(|unit| (0xdc00..0xe000).contains(&unit)) {
            self.at = before;
            return None;
        }
        char::decode_utf16([Some(first), second].into_iter().flatten()).next()?.ok()
    }
}
