//! Makes JSON texts that are nearly right, with numbers and texts on which parsers often fail.

use rand::Rng;
use rand::rngs::StdRng;

pub const INTEGERS: &[&str] = &[
    "0",
    "1",
    "2",
    "7",
    "99",
    "100",
    "127",
    "128",
    "255",
    "256",
    "999",
    "32767",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740991",
    "9007199254740992",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999",
];

/// Values for places where another value is expected.
const ODD_VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "-1",
    "-0",
    "0.0",
    "1.0",
    "1.5",
    "1e0",
    "1e2",
    "1E+1",
    "1e-1",
    "1e400",
    "-1e400",
    "01",
    "+1",
    "1.",
    ".5",
    "NaN",
    "Infinity",
    "0x10",
    "\"\"",
    "\"1\"",
    "[]",
    "{}",
    "[1]",
    "{\"a\":1}",
    "''",
    "",
];

/// Texts that are too long, not ASCII, look-alikes, or mean something to a layer further down.
const ODD_TEXTS: &[&str] = &[
    "",
    " ",
    "-",
    "a b",
    "\0",
    "a\0b",
    "\n",
    "\r\n",
    "\t",
    "\u{b}",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{feff}",
    "\u{202e}",
    "\u{2028}",
    "\u{212a}",
    "\u{17f}",
    "\u{131}",
    "\u{fffd}",
    "\u{10ffff}",
    "e\u{301}",
    "é",
    "ａ",
    "爱",
    "😀",
    "\"",
    "'",
    "\\",
    "\\u0000",
    "\\ud800",
    "%00",
    "%2e",
    "../..",
    "{a}",
    "{",
    "}",
    "[",
    "]",
    "*",
    ";",
    ",",
    "=",
    "#",
    "/",
    "~",
    "~0",
    "~1",
    "a.b",
    "a[0]",
    ":",
    "@",
    "$$",
    "-- ",
    "A",
    "Z",
    "_",
    "null",
];

const SLUG: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-";

pub fn one_of<T: Copy>(choices: &[T], rng: &mut StdRng) -> T {
    choices[rng.random_range(0..choices.len())]
}

/// Makes a text that a parser may not expect.
pub fn text_of(rng: &mut StdRng) -> String {
    match rng.random_range(0..10) {
        0 => "a".repeat(one_of(&[31, 32, 33, 63, 64, 65, 119, 120, 121, 200, 201, 1024, 4097], rng)),
        1 => {
            one_of(&["爱", "é", "😀"], rng).repeat(one_of(&[16, 21, 32, 40, 60, 64, 100, 120, 121, 201], rng))
        }
        2 => one_of(INTEGERS, rng).to_string(),
        3 => one_of(ODD_VALUES, rng).to_string(),
        _ => one_of(ODD_TEXTS, rng).to_string(),
    }
}

pub fn slug(rng: &mut StdRng) -> String {
    let length = one_of(&[1, 2, 5, 8, 31, 32], rng);
    (0..length).map(|_| char::from(one_of(SLUG, rng))).collect()
}

/// A JSON text in the making. Unlike a JSON value, it can repeat a key and hold what is no JSON.
#[derive(Debug, Clone)]
pub enum Node {
    Raw(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub fn raw(text: impl ToString) -> Self {
        Self::Raw(text.to_string())
    }

    pub fn object(members: &[(&str, Self)]) -> Self {
        Self::Object(members.iter().map(|(name, node)| ((*name).to_owned(), node.clone())).collect())
    }

    /// Puts one to three faults into the text in half of the cases, and none in the other half.
    pub fn perhaps_corrupt(&mut self, rng: &mut StdRng) {
        if rng.random_bool(0.5) {
            for _ in 0..one_of(&[1, 1, 1, 2, 3], rng) {
                self.corrupt(rng);
            }
        }
    }

    fn corrupt(&mut self, rng: &mut StdRng) {
        let child = match self {
            Self::List(nodes) if !nodes.is_empty() => {
                let at = rng.random_range(0..nodes.len());
                nodes.get_mut(at)
            }
            Self::Object(members) if !members.is_empty() => {
                let at = rng.random_range(0..members.len());
                members.get_mut(at).map(|(_, node)| node)
            }
            _ => None,
        };
        if let Some(child) = child
            && rng.random_bool(0.6)
        {
            child.corrupt(rng);
            return;
        }
        match self {
            Self::Object(members) if !members.is_empty() && rng.random_bool(0.8) => {
                if let Some(other) = corrupt_members(members, rng) {
                    *self = other;
                }
            }
            _ => self.replace(rng),
        }
    }

    fn replace(&mut self, rng: &mut StdRng) {
        let before = self.clone();
        *self = match rng.random_range(0..8) {
            0 | 1 => Self::raw(one_of(INTEGERS, rng)),
            2 | 3 => Self::raw(one_of(ODD_VALUES, rng)),
            4 | 5 => Self::Text(text_of(rng)),
            6 => Self::List(vec![before]),
            _ => {
                let depth = one_of(&[2, 100, 126, 127, 128, 129, 300], rng);
                Self::Raw(format!("{}{}", "[".repeat(depth), "]".repeat(depth)))
            }
        };
    }

    pub fn write(&self, rng: &mut StdRng) -> String {
        let mut text = String::new();
        // Most clients write no blanks and no needless escapes.
        let is_odd = rng.random_bool(0.2);
        self.write_into(&mut text, is_odd, rng);
        if rng.random_bool(0.02) {
            text.push_str(one_of(&["x", "{}", ",", "\0", "\u{feff}", "]", " "], rng));
        }
        text
    }

    fn write_into(&self, text: &mut String, is_odd: bool, rng: &mut StdRng) {
        match self {
            Self::Raw(raw) => text.push_str(raw),
            Self::Text(content) => write_text(content, text, is_odd, rng),
            Self::List(nodes) => {
                text.push('[');
                for (index, node) in nodes.iter().enumerate() {
                    text.push_str(if index > 0 { "," } else { "" });
                    node.write_into(text, is_odd, rng);
                }
                text.push(']');
            }
            Self::Object(members) => {
                text.push('{');
                for (index, (name, node)) in members.iter().enumerate() {
                    text.push_str(if index > 0 { "," } else { "" });
                    blank(text, is_odd, rng);
                    write_text(name, text, is_odd, rng);
                    blank(text, is_odd, rng);
                    text.push(':');
                    blank(text, is_odd, rng);
                    node.write_into(text, is_odd, rng);
                }
                text.push('}');
            }
        }
    }
}

/// Puts a fault into the members of an object. Returns another node when the object becomes something else.
fn corrupt_members(members: &mut Vec<(String, Node)>, rng: &mut StdRng) -> Option<Node> {
    let at = rng.random_range(0..members.len());
    match rng.random_range(0..8) {
        0 => {
            let mut copy = members[at].clone();
            if rng.random_bool(0.5) {
                copy.1.replace(rng);
            }
            members.push(copy);
        }
        1 => drop(members.remove(at)),
        2 => members[at].0 = text_of(rng),
        3 => members.insert(at, (text_of(rng), Node::raw("1"))),
        4 => {
            members.push((one_of(&["user_id", "price", "v", "alg", "x"], rng).to_string(), Node::text("bob")))
        }
        5 => members.reverse(),
        // serde reads a struct from a list of its fields, too.
        6 => return Some(Node::List(members.drain(..).map(|(_, node)| node).collect())),
        _ => members[at].0 = members[at].0.to_uppercase(),
    }
    None
}

fn blank(text: &mut String, is_odd: bool, rng: &mut StdRng) {
    if is_odd && rng.random_bool(0.3) {
        text.push_str(one_of(&[" ", "\n", "\t", "\r", "  ", "\u{b}", "\u{a0}"], rng));
    }
}

fn write_text(content: &str, text: &mut String, is_odd: bool, rng: &mut StdRng) {
    text.push('"');
    for c in content.chars() {
        if is_odd && rng.random_bool(0.2) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
            continue;
        }
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            // Now and then the character stands as it is, which JSON forbids.
            c if c < ' ' && !rng.random_bool(0.1) => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    if is_odd && rng.random_bool(0.05) {
        text.push_str(one_of(&["\\ud800", "\\udc00\\ud800", "\\x41", "\\", "\\u12"], rng));
    }
    text.push('"');
}
