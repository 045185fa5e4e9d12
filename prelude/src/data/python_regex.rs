//! Python's regular expressions by the fancy-regex crate, for patterns of task files: `findall` and
//! `sub`, with limits on backtracking and on the size of what is compiled.

use fancy_regex::{Captures, Regex, RegexBuilder};

/// The maximum length of a pattern in bytes.
const MAX_PATTERN: usize = 1 << 13;

/// The limit on steps of backtracking in a search.
const BACKTRACKING: usize = 1 << 20;

/// The maximum size in bytes of a compiled pattern.
const COMPILED: usize = 1 << 22;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct PythonRegex(Regex);

impl PythonRegex {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// The pattern is too long, invalid, or uses what Python alone has.
    pub fn new(pattern: &str) -> Result<Self, String> {
        if pattern.len() > MAX_PATTERN {
            return Err(format!("it has {} bytes; at most {MAX_PATTERN} are read", pattern.len()));
        }
        let compiled = RegexBuilder::new(&translate(pattern)?)
            .backtrack_limit(BACKTRACKING)
            .delegate_size_limit(COMPILED)
            .build();
        compiled.map(Self).map_err(|e| e.to_string())
    }

    /// Python's `findall`: the text of each match, or of its groups if there are any; a group that
    /// took no part is empty.
    ///
    /// # Errors
    /// Too much backtracking.
    pub fn find_all(&self, text: &str) -> Result<Vec<Vec<String>>, String> {
        let mut all = Vec::new();
        self.each(text, |captures| {
            let group = |at| captures.get(at).map_or("", |found| found.as_str()).to_owned();
            let groups = captures.len();
            all.push(if groups == 1 { vec![group(0)] } else { (1..groups).map(group).collect() });
        })?;
        Ok(all)
    }

    /// Python's `sub`, of all matches.
    ///
    /// # Errors
    /// Too much backtracking, or a replacement with an escape other than a group's or a line break.
    pub fn replace_all(&self, text: &str, replacement: &str) -> Result<String, String> {
        let parts = replacement_parts(replacement)?;
        let (mut replaced, mut end) = (String::new(), 0);
        self.each(text, |captures| {
            let Some(whole) = captures.get(0) else { return };
            replaced.push_str(&text[end..whole.start()]);
            end = whole.end();
            for part in &parts {
                let group = |found: Option<fancy_regex::Match<'_>>| {
                    found.map_or(String::new(), |found| found.as_str().to_owned())
                };
                match part {
                    Part::Text(text) => replaced.push_str(text),
                    Part::Number(number) => replaced.push_str(&group(captures.get(*number))),
                    Part::Name(name) => replaced.push_str(&group(captures.name(name))),
                }
            }
        })?;
        replaced.push_str(&text[end..]);
        Ok(replaced)
    }

    /// Calls `take` for every match from left to right. An empty match may follow another match
    /// directly, as in Python.
    fn each(&self, text: &str, mut take: impl FnMut(&Captures<'_>)) -> Result<(), String> {
        let next = |at: usize| text[at..].chars().next().map_or(at + 1, |c| at + c.len_utf8());
        let mut at = 0;
        while at <= text.len() {
            let found = self.0.captures_from_pos(text, at).map_err(|e| e.to_string())?;
            let Some(captures) = found else { break };
            let whole = captures.get(0).map_or(at..at, |whole| whole.range());
            take(&captures);
            at = if whole.is_empty() { next(whole.end) } else { whole.end };
        }
        Ok(())
    }
}

/// A part of a replacement.
enum Part {
    Text(String),
    Number(usize),
    Name(String),
}

fn replacement_parts(replacement: &str) -> Result<Vec<Part>, String> {
    let bad = || format!("the replacement `{replacement}` has an unsupported escape");
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut chars = replacement.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next().ok_or_else(bad)? {
            '\\' => text.push('\\'),
            'n' => text.push('\n'),
            't' => text.push('\t'),
            digit @ '1'..='9' => {
                parts.push(Part::Text(std::mem::take(&mut text)));
                let mut number = digit.to_digit(10).unwrap_or(0) as usize;
                if let Some(second) = chars.clone().next().and_then(|c| c.to_digit(10)) {
                    chars.next();
                    number = 10 * number + second as usize;
                }
                parts.push(Part::Number(number));
            }
            'g' => {
                parts.push(Part::Text(std::mem::take(&mut text)));
                let rest = chars.as_str().strip_prefix('<').ok_or_else(bad)?;
                let (name, rest) = rest.split_once('>').ok_or_else(bad)?;
                chars = rest.chars();
                parts.push(match name.parse() {
                    Ok(number) => Part::Number(number),
                    Err(_) => Part::Name(name.to_owned()),
                });
            }
            _ => return Err(bad()),
        }
    }
    parts.push(Part::Text(text));
    Ok(parts)
}

/// Rewrites what both understand differently: `$` and `\Z`, braces that are no repetition, brackets
/// and set operators inside a set, and escapes of ordinary characters.
fn translate(pattern: &str) -> Result<String, String> {
    let chars: Vec<char> = pattern.chars().collect();
    let is_multiline = flags(&chars).contains('m');
    let mut to = String::with_capacity(pattern.len() + 16);
    // The index of the first character of the set that is open.
    let mut set: Option<usize> = None;
    let mut at = 0;
    while let Some(c) = chars.get(at).copied() {
        at += 1;
        match (c, set) {
            ('\\', _) => {
                let escaped = *chars.get(at).ok_or("it ends with a backslash")?;
                at += 1;
                match escaped {
                    'Z' => to.push_str("\\z"),
                    '0' | 'N' => return Err(format!("`\\{escaped}` is not supported")),
                    'G' | 'K' | 'R' | 'X' | 'h' | 'H' | 'z' | 'p' | 'P' | 'k' | 'g' | 'e' | 'O' => {
                        return Err(format!("Python has no `\\{escaped}`"));
                    }
                    '<' | '>' => to.push(escaped),
                    c if !c.is_ascii() => to.push(c),
                    c => to.extend(['\\', c]),
                }
            }
            (']', Some(first)) if at - 1 > first => {
                set = None;
                to.push(']');
            }
            (']', Some(_)) | ('[' | '&' | '~', Some(_)) => to.extend(['\\', c]),
            // A range from or to a hyphen, not a difference of sets.
            ('-', Some(first)) if chars.get(at) == Some(&'-') && at - 1 == first => {
                to.push_str("\\-");
            }
            ('-', Some(_)) if chars.get(at) == Some(&'-') => {
                to.push_str("-\\-");
                at += 1;
            }
            (_, Some(_)) => to.push(c),
            ('[', None) => {
                to.push('[');
                if chars.get(at) == Some(&'^') {
                    to.push('^');
                    at += 1;
                }
                set = Some(at);
            }
            ('$', None) if !is_multiline => to.push_str("(?=\\n?\\z)"),
            ('{', None) => match repetition(&chars[at..]) {
                Some((text, length)) => {
                    to.push_str(&text);
                    at += length;
                }
                None => to.push_str("\\{"),
            },
            ('}', None) => to.push_str("\\}"),
            (c, None) => to.push(c),
        }
    }
    Ok(to)
}

/// The repetition after a brace, and its length.
fn repetition(chars: &[char]) -> Option<(String, usize)> {
    let end = chars.iter().position(|c| *c == '}')?;
    let inside: String = chars[..end].iter().collect();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = match inside.split_once(',') {
        None if is_number(&inside) => format!("{{{inside}}}"),
        Some(("", most)) if is_number(most) => format!("{{0,{most}}}"),
        Some((least, "")) if is_number(least) => format!("{{{least},}}"),
        Some((least, most)) if is_number(least) && is_number(most) => format!("{{{inside}}}"),
        _ => return None,
    };
    Some((text, end + 1))
}

/// The flags at the beginning of a pattern.
fn flags(chars: &[char]) -> String {
    let text: String = chars.iter().collect();
    let inside = text.strip_prefix("(?").and_then(|rest| rest.split_once(')'));
    inside
        .map(|(flags, _)| flags.to_owned())
        .filter(|flags| flags.bytes().all(|b| b.is_ascii_lowercase()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: &str, text: &str) -> Vec<String> {
        let found = PythonRegex::new(pattern).unwrap().find_all(text).unwrap();
        found.into_iter().map(|groups| groups.join("|")).collect()
    }

    /// As Python 3.11's `re.findall` gives them.
    #[test]
    fn patterns_find_what_python_finds() {
        for (pattern, text, found) in [
            ("#### (\\-?[0-9\\.\\,]+)", "#### 12,3. #### -4", &["12,3.", "-4"][..]),
            ("(-?[$0-9.,]{2,})|(-?[0-9]+)", "a 7 is $12.5", &["|7", "$12.5|"]),
            ("x*", "axb", &["", "x", "", ""]),
            ("a$", "a\na\n", &["a"]),
            ("a\\Z", "a\na\n", &[]),
            ("(?m)a$", "a\na\n", &["a", "a"]),
            ("\\\\boxed{(.*?)}", "\\boxed{7} \\boxed{8}", &["7", "8"]),
            ("[[\\]&&]+", "[a]&&", &["[", "]&&"]),
            ("[]a]+", "]a]", &["]a]"]),
            ("[^]]+", "a]b", &["a", "b"]),
            ("(?i)ANSWER: ([A-D])", "answer: b", &["b"]),
            ("\\<b\\>", "<b>", &["<b>"]),
            ("(?<== )\\d+", "3 = 4", &["4"]),
            ("(.)\\1", "abba", &["b"]),
            ("a{,2}b", "aaab", &["aab"]),
            ("[+--]+", "*+,-.", &["+,-"]),
            ("[--/]+", ",-./0", &["-./"]),
        ] {
            assert_eq!(all(pattern, text), found, "{pattern}");
        }
        for bad in ["(", "\\", "\\N{DASH}", &"a".repeat(MAX_PATTERN + 1), "\\p{L}"] {
            assert!(PythonRegex::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn replacements_refer_to_groups() {
        let sub = |pattern: &str, to: &str, text: &str| {
            PythonRegex::new(pattern).unwrap().replace_all(text, to).unwrap()
        };
        assert_eq!(sub("(?s).*#### ", "", "a\n#### b #### c"), "c");
        assert_eq!(sub("(?P<x>\\d)(\\d)", "\\2\\g<x>\\n", "12a34"), "21\na43\n");
        assert_eq!(sub("x*", "-", "axb"), "-a--b-");
        assert!(PythonRegex::new("a").unwrap().replace_all("a", "\\q").is_err());
    }

    #[test]
    fn backtracking_is_bounded() {
        let slow = PythonRegex::new("(?=(a+)+\\1$)b|(a|aa)+\\2c").unwrap();
        assert!(slow.find_all(&"a".repeat(200)).is_err());
    }
}
