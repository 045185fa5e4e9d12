//! Reads Python's pickle format as data: describes what it would build, and never executes it.
//!
//! Values are stored in one list and refer to each other by index, so sharing costs nothing,
//! nesting needs no recursion, and memory is bounded by the size of the input. Format: Python's
//! `Lib/pickletools.py`.

use std::collections::HashMap;

/// The index of a value.
pub(crate) type Id = usize;

/// A value that a pickle describes.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    /// Values that are not needed: None, floats, bytes, sets.
    Other,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    /// A class or function: module and name.
    Global(&'a str, &'a str),
    /// A tuple or list.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A call of a function or class: the function and its arguments.
    Call(Id, Id),
    /// An object stored outside the pickle.
    Stored(Id),
}

/// A parsed pickle.
pub(crate) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    /// The outermost value.
    pub root: Id,
    /// The number of bytes it occupies.
    pub length: usize,
}

/// The maximum number of instructions; a tensor needs about forty.
const MAX_INSTRUCTIONS: usize = 1 << 21;

/// The maximum number of pairs with which dictionaries are constructed; state dictionaries are
/// constructed empty.
const MAX_PAIRS: usize = 1 << 20;

type Read<T> = Result<T, String>;

impl<'a> Pickle<'a> {
    /// Reads the pickle at the beginning of `bytes`.
    ///
    /// # Errors
    /// The reason why it is invalid.
    pub fn read(bytes: &'a [u8]) -> Read<Self> {
        let mut machine = Interpreter {
            bytes,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            paired: 0,
        };
        for _ in 0..MAX_INSTRUCTIONS {
            if machine.step()? {
                let root = machine.pop()?;
                return Ok(Self { values: machine.values, root, length: machine.at });
            }
        }
        Err(format!("its pickle has more than {MAX_INSTRUCTIONS} instructions"))
    }

    /// The indices of all values.
    pub fn all(&self) -> std::ops::Range<Id> {
        0..self.values.len()
    }

    pub fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id).unwrap_or(&Value::Other)
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        if let Value::Int(n) = self.get(id) { Some(*n) } else { None }
    }

    pub fn text(&self, id: Id) -> Option<&'a str> {
        if let Value::Text(text) = self.get(id) { Some(text) } else { None }
    }

    pub fn global(&self, id: Id) -> Option<(&'a str, &'a str)> {
        if let Value::Global(module, name) = self.get(id) { Some((module, name)) } else { None }
    }

    pub fn list(&self, id: Id) -> Option<&[Id]> {
        if let Value::List(items) = self.get(id) { Some(items) } else { None }
    }

    pub fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        if let Value::Dict(items) = self.get(id) { Some(items) } else { None }
    }

    /// The module and name of a called function, and the index of its arguments.
    pub fn call(&self, id: Id) -> Option<((&'a str, &'a str), Id)> {
        let Value::Call(function, arguments) = self.get(id) else { return None };
        Some((self.global(*function)?, *arguments))
    }
}

/// Interprets instructions.
struct Interpreter<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// The height of the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// The number of pairs with which dictionaries were constructed.
    paired: usize,
}

impl<'a> Interpreter<'a> {
    fn take(&mut self, length: u64) -> Read<&'a [u8]> {
        let end = usize::try_from(length)
            .ok()
            .and_then(|n| self.at.checked_add(n))
            .filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("its pickle ends early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A little-endian integer of `width` bytes, at most 8.
    fn number(&mut self, width: u64) -> Read<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn text(&mut self, length: u64) -> Read<&'a str> {
        std::str::from_utf8(self.take(length)?)
            .map_err(|_| "its pickle has a name that is not UTF-8".into())
    }

    fn line(&mut self) -> Read<&'a str> {
        let length = self.bytes[self.at..]
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or("its pickle ends early")?;
        let line = self.text(length as u64)?;
        self.at += 1;
        Ok(line.trim_end_matches('\r'))
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Read<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("its pickle reads from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "its pickle reads from an empty stack".into())
    }

    fn top(&self) -> Read<Id> {
        self.stack.last().copied().ok_or_else(|| "its pickle reads from an empty stack".into())
    }

    /// Pops the values above the last mark.
    fn marked(&mut self) -> Read<Vec<Id>> {
        let floor = self.marks.pop().filter(|floor| *floor <= self.stack.len());
        floor
            .map(|floor| self.stack.split_off(floor))
            .ok_or_else(|| "its pickle reads from an empty stack".into())
    }

    fn tuple(&mut self, length: usize) -> Read<()> {
        let mut items = (0..length).map(|_| self.pop()).collect::<Read<Vec<_>>>()?;
        items.reverse();
        self.push(Value::List(items));
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Read<()> {
        let id = self.top()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Read<()> {
        let id = *self.memo.get(&key).ok_or("its pickle refers to a missing memo entry")?;
        self.stack.push(id);
        Ok(())
    }

    fn extend(&mut self, more: Vec<Id>) -> Read<()> {
        let id = self.top()?;
        match &mut self.values[id] {
            Value::List(items) => items.extend(more),
            Value::Other | Value::Call(..) => {}
            _ => return Err("its pickle appends to something that is not a list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Read<()> {
        let id = self.top()?;
        match &mut self.values[id] {
            Value::Dict(pairs) => {
                pairs.extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)))
            }
            Value::Other | Value::Call(..) => {}
            _ => return Err("its pickle sets an item of something that is not a dictionary".into()),
        }
        Ok(())
    }

    /// Calls a function with its arguments; the result is a dictionary if the function creates one.
    fn reduce(&mut self) -> Read<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let is_dict = matches!(
            self.values[function],
            Value::Global("collections", "OrderedDict" | "defaultdict")
        );
        if !is_dict {
            self.push(Value::Call(function, arguments));
            return Ok(());
        }
        // The pairs to construct it with, in a list.
        let list =
            |id: Id| if let Value::List(items) = &self.values[id] { items.as_slice() } else { &[] };
        let pairs = list(arguments).last().map_or(&[][..], |id| list(*id));
        // One list may be passed to many calls.
        self.paired += pairs.len();
        if self.paired > MAX_PAIRS {
            return Err(format!(
                "its pickle constructs dictionaries with more than {MAX_PAIRS} pairs"
            ));
        }
        let pairs = pairs.iter().filter_map(|pair| match list(*pair) {
            [key, value] => Some((*key, *value)),
            _ => None,
        });
        let pairs = pairs.collect();
        self.push(Value::Dict(pairs));
        Ok(())
    }

    /// Executes one instruction; returns true at the end.
    fn step(&mut self) -> Read<bool> {
        let instruction = self.take(1)?[0];
        match instruction {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return Ok(true),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.marked()?),
            b'2' => self.stack.push(self.top()?),
            b'N' | 0x8f => self.push(Value::Other),
            0x88 | 0x89 => self.push(Value::Bool(instruction == 0x88)),
            b'K' => {
                let n = self.number(1)?;
                self.push(Value::Int(n as i64));
            }
            b'M' => {
                let n = self.number(2)?;
                self.push(Value::Int(n as i64));
            }
            b'J' => {
                let n = self.number(4)? as u32;
                self.push(Value::Int(i64::from(n.cast_signed())));
            }
            0x8a => {
                let width = self.number(1)?;
                self.long(width)?;
            }
            0x8b => {
                let width = self.number(4)?;
                self.long(width)?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Other);
            }
            b'X' | b'T' => {
                let length = self.number(4)?;
                let text = self.text(length)?;
                self.push(Value::Text(text));
            }
            0x8c | b'U' => {
                let length = self.number(1)?;
                let text = self.text(length)?;
                self.push(Value::Text(text));
            }
            0x8d => {
                let length = self.number(8)?;
                let text = self.text(length)?;
                self.push(Value::Text(text));
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let width = match instruction {
                    b'B' => 4,
                    b'C' => 1,
                    _ => 8,
                };
                let length = self.number(width)?;
                self.take(length)?;
                self.push(Value::Other);
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(module, name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| {
                    if let Value::Text(text) = self.values[id] {
                        Ok(text)
                    } else {
                        Err("its pickle does not name a class")
                    }
                };
                let (module, name) = (text(module)?, text(name)?);
                self.push(Value::Global(module, name));
            }
            b')' | b']' => self.push(Value::List(Vec::new())),
            b't' | b'l' => {
                let items = self.marked()?;
                self.push(Value::List(items));
            }
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let items = self.marked()?;
                self.push(Value::Dict(Vec::new()));
                self.set(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.extend(items)?;
            }
            0x91 => {
                self.marked()?;
                self.push(Value::Other);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            b'q' => {
                let key = self.number(1)?;
                self.remember(key)?;
            }
            b'r' => {
                let key = self.number(4)?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => {
                let key = self.number(1)?;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.number(4)?;
                self.recall(key)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Stored(id));
            }
            b'R' | 0x81 => self.reduce()?,
            0x92 => {
                self.pop()?;
                self.reduce()?;
            }
            // The state of an object: attributes, which no tensor needs.
            b'b' => drop(self.pop()?),
            other => {
                return Err(format!("its pickle has the unsupported instruction {other:#04x}"));
            }
        }
        Ok(false)
    }

    /// An integer of `width` bytes; one that exceeds any size is ignored.
    fn long(&mut self, width: u64) -> Read<()> {
        if width > 8 {
            self.take(width)?;
            self.push(Value::Other);
            return Ok(());
        }
        let n = self.number(width)?;
        let unused = 64 - 8 * width as u32;
        self.push(Value::Int(if width == 0 { 0 } else { (n << unused).cast_signed() >> unused }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `python -c "import pickle; print(pickle.dumps({'a': [1, -2, 300, 70000, 2**40, -2**40], 'b':
    /// ('x', None)}, N))"`
    #[test]
    fn values_of_protocols_2_and_4_are_read() {
        let two = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\xffeX\x01\x00\x00\x00bq\x03X\x01\x00\x00\x00xq\x04N\x86q\x05u.";
        let four = b"\x80\x04\x95\x34\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\xffe\x8c\x01b\x94\x8c\x01x\x94N\x86\x94u.";
        for bytes in [&two[..], &four[..]] {
            let pickle = Pickle::read(bytes).unwrap();
            assert_eq!(pickle.length, bytes.len());
            let [(a, list), (_, pair)] = pickle.dict(pickle.root).unwrap() else { panic!() };
            assert_eq!(pickle.text(*a), Some("a"));
            let numbers: Vec<_> =
                pickle.list(*list).unwrap().iter().map(|id| pickle.int(*id).unwrap()).collect();
            assert_eq!(numbers, [1, -2, 300, 70000, 1 << 40, -(1 << 40)]);
            assert_eq!(pickle.text(pickle.list(*pair).unwrap()[0]), Some("x"));
        }
    }

    /// Lists of lists, each contained twice in the next: `2^60` values if they were copied.
    #[test]
    fn shared_values_are_not_copied() {
        let mut bytes = b"]q\x00".to_vec();
        for level in 0..60u8 {
            bytes.extend([b']', b'q', level + 1, b'(', b'h', level, b'h', level, b'e']);
        }
        bytes.push(b'.');
        assert!(Pickle::read(&bytes).is_ok());
    }

    /// Each dictionary copies its list, so passing one list to very many calls is an error.
    #[test]
    fn dictionaries_constructed_from_one_list_are_bounded() {
        // The class, and a list of a thousand pairs.
        let mut bytes = b"ccollections\nOrderedDict\nq\x00](".to_vec();
        (0..1000).for_each(|_| bytes.extend(b"K\x01K\x02\x86"));
        bytes.extend(b"e\x85q\x01");
        let begin = bytes.clone();
        (0..1000).for_each(|_| bytes.extend(b"h\x00h\x01R"));
        bytes.push(b'.');
        assert!(Pickle::read(&bytes).is_ok());
        bytes = begin;
        (0..1100).for_each(|_| bytes.extend(b"h\x00h\x01R"));
        bytes.push(b'.');
        assert!(Pickle::read(&bytes).err().unwrap().contains("dictionaries"));
    }

    #[test]
    fn corrupt_and_hostile_pickles_are_errors() {
        let cases: [&[u8]; 9] = [
            b"",
            b"R.",
            b"(.",
            b"X\xff\xff\xff\xffab.",
            b"h\x07.",
            b"cos\nsystem",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
            b"K\x01K\x02s.",
            b"i.",
        ];
        for bytes in cases {
            assert!(Pickle::read(bytes).is_err(), "{bytes:?}");
        }
    }
}
