//! What the headers of pages claim, before a page is read: the parquet crate makes room for whatever they say.
//!
//! A header is a struct in Thrift's compact protocol, `PageHeader` of parquet.thrift. The crate takes fields by their numbers
//! and does not look at the types that they say they have, so that a field of another type than is its own is refused here:
//! what follows it would be read otherwise there.

/// Types of fields in the compact protocol; numbers are of 16, 32 and 64 bits.
const BOOLEANS: [u8; 2] = [1, 2];
const BYTE: u8 = 3;
const NUMBERS: [u8; 3] = [4, 5, 6];
const NUMBER: u8 = 5;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const STRUCT: u8 = 12;

/// Structs within each other that are looked into.
const DEEPEST: usize = 8;

/// What the pages of a column claim to have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Claims {
    /// Bytes when they are not compressed.
    pub bytes: u64,
    /// Entries of dictionaries.
    pub entries: u64,
}

/// What the pages in `chunk` claim; none where it is not laid out as pages are.
pub(super) fn claims(chunk: &[u8]) -> Option<Claims> {
    let (mut rest, mut claims) = (Compact(chunk), Claims::default());
    while !rest.0.is_empty() {
        let header = rest.header()?;
        claims.bytes += u64::try_from(header.bytes).ok()?;
        claims.entries += u64::try_from(header.entries).ok()?;
        rest.take(usize::try_from(header.stored).ok()?)?;
    }
    Some(claims)
}

#[derive(Default)]
struct Header {
    /// Bytes of the page when it is not compressed.
    bytes: i32,
    /// Bytes that it takes in the file.
    stored: i32,
    /// Entries, where it is a dictionary.
    entries: i32,
}

/// What is left of bytes in the compact protocol.
struct Compact<'a>(&'a [u8]);

impl<'a> Compact<'a> {
    fn header(&mut self) -> Option<Header> {
        let (mut header, mut field) = (Header::default(), 0);
        while let Some(kind) = self.field(&mut field)? {
            match (field, kind) {
                (1 | 4, NUMBER) => drop(self.number()?),
                (2, NUMBER) => header.bytes = self.number()?,
                (3, NUMBER) => header.stored = self.number()?,
                (5, STRUCT) => drop(self.page(4, None)?),
                (6, STRUCT) => self.skip(STRUCT, DEEPEST)?,
                (7, STRUCT) => header.entries = self.page(2, Some(3))?,
                (8, STRUCT) => drop(self.page(6, Some(7))?),
                (1..=8, _) => return None,
                _ => self.skip(kind, DEEPEST)?,
            }
        }
        Some(header)
    }

    /// A struct whose fields up to `last` are numbers, and whose field `flag` is a boolean: the first number, which is how
    /// many values a page has.
    fn page(&mut self, last: i16, flag: Option<i16>) -> Option<i32> {
        let (mut values, mut field) = (0, 0);
        while let Some(kind) = self.field(&mut field)? {
            match kind {
                NUMBER if field == 1 => values = self.number()?,
                NUMBER if (1..=last).contains(&field) => drop(self.number()?),
                _ if (1..=last).contains(&field) || (flag == Some(field) && !BOOLEANS.contains(&kind)) => return None,
                _ => self.skip(kind, DEEPEST)?,
            }
        }
        Some(values)
    }

    /// The type of the next field, whose number becomes `field`; none at the end of a struct.
    fn field(&mut self, field: &mut i16) -> Option<Option<u8>> {
        let first = self.byte()?;
        let (delta, kind) = (first >> 4, first & 15);
        if kind == 0 {
            return Some(None);
        }
        *field = match delta {
            0 => i16::try_from(self.number()?).ok()?,
            delta => field.checked_add(delta.into())?,
        };
        Some(Some(kind))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            BYTE => drop(self.byte()?),
            DOUBLE => drop(self.take(8)?),
            BINARY => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.take(length)?;
            }
            STRUCT => {
                let mut field = 0;
                while let Some(kind) = self.field(&mut field)? {
                    self.skip(kind, depth.checked_sub(1)?)?;
                }
            }
            kind if NUMBERS.contains(&kind) => drop(self.varint()?),
            kind if BOOLEANS.contains(&kind) => {}
            // No page has a list or a map, and there is more than one reading of them.
            _ => return None,
        }
        Some(())
    }

    fn number(&mut self) -> Option<i32> {
        let value = self.varint()?;
        i32::try_from((value >> 1).cast_signed() ^ -((value & 1).cast_signed())).ok()
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: a dictionary of 3 entries in 2 bytes that claim to be 100, and a page of 1 byte that claims to be 7.
    #[test]
    fn claims_are_added_up() {
        let dictionary = [0x15, 4, 0x15, 200, 1, 0x15, 4, 0x4c, 0x15, 6, 0x15, 0, 0x11, 0, 0, b'a', b'b'];
        let statistics = [0x1c, 0x18, 1, b'x', 0x16, 2, 0];
        let page =
            [&[0x15, 0, 0x15, 14, 0x15, 2, 0x2c, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6][..], &statistics, &[0, 0, b'c']].concat();
        let chunk = [&dictionary[..], &page].concat();
        assert_eq!(claims(&chunk), Some(Claims { bytes: 107, entries: 3 }));
        for end in 1..chunk.len() {
            assert!(end == dictionary.len() || claims(&chunk[..end]).is_none(), "{end}");
        }
    }

    /// The parquet crate reads a number where one belongs, whatever its type: here one is hidden behind a boolean.
    #[test]
    fn fields_of_other_types_are_refused() {
        for header in [
            &[0x15, 0, 0x11, 0x15, 14, 0][..],
            &[0x15, 0, 0x15, 14, 0x15, 0, 0x4c, 0x11, 6, 0, 0],
            &[0x15, 0, 0x15, 14, 0x15, 0, 0x79, 0x11, 0, 0],
        ] {
            assert_eq!(claims(header), None);
        }
    }
}
