//! Sums up the sizes that page headers claim before a page is read, because the parquet crate
//! allocates whatever they claim.
//!
//! A header is a struct in Thrift's compact protocol, `PageHeader` of parquet.thrift. The crate
//! reads fields by number and ignores their declared types. A field of an unexpected type is
//! therefore an error here: the crate would read what follows it differently.

/// Field types of the compact protocol; integers have 16, 32 or 64 bits.
const BOOLEANS: [u8; 2] = [1, 2];
const BYTE: u8 = 3;
const NUMBERS: [u8; 3] = [4, 5, 6];
const NUMBER: u8 = 5;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const STRUCT: u8 = 12;

/// The maximum nesting of structs.
const MAX_DEPTH: usize = 8;

/// The sizes that the pages of a column claim.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Claims {
    /// Uncompressed bytes.
    pub bytes: u64,
    /// Dictionary entries.
    pub entries: u64,
}

/// The sizes that the pages in `chunk` claim; `None` if it does not consist of pages.
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
    /// Uncompressed bytes of the page.
    bytes: i32,
    /// Bytes of the page in the file.
    stored: i32,
    /// Dictionary entries, if it is a dictionary page.
    entries: i32,
}

/// A reader of the compact protocol: the bytes left.
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
                (6, STRUCT) => self.skip(STRUCT, MAX_DEPTH)?,
                (7, STRUCT) => header.entries = self.page(2, Some(3))?,
                (8, STRUCT) => drop(self.page(6, Some(7))?),
                (1..=8, _) => return None,
                _ => self.skip(kind, MAX_DEPTH)?,
            }
        }
        Some(header)
    }

    /// Reads a struct whose fields up to `last` are integers and whose field `flag` is a boolean.
    /// Returns the first integer, the number of values of a page.
    fn page(&mut self, last: i16, flag: Option<i16>) -> Option<i32> {
        let (mut values, mut field) = (0, 0);
        while let Some(kind) = self.field(&mut field)? {
            match kind {
                NUMBER if field == 1 => values = self.number()?,
                NUMBER if (1..=last).contains(&field) => drop(self.number()?),
                _ if (1..=last).contains(&field)
                    || (flag == Some(field) && !BOOLEANS.contains(&kind)) =>
                {
                    return None;
                }
                _ => self.skip(kind, MAX_DEPTH)?,
            }
        }
        Some(values)
    }

    /// The type of the next field, whose number is stored in `field`; `Some(None)` at the end of a
    /// struct.
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
            // Pages contain no lists or maps, and readers disagree on how to parse them.
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

    /// Hand-written: a dictionary page of 3 entries with 2 bytes that claims 100, and a page with 1
    /// byte that claims 7.
    #[test]
    fn claims_are_summed() {
        let dictionary =
            [0x15, 4, 0x15, 200, 1, 0x15, 4, 0x4c, 0x15, 6, 0x15, 0, 0x11, 0, 0, b'a', b'b'];
        let statistics = [0x1c, 0x18, 1, b'x', 0x16, 2, 0];
        let page = [
            &[0x15, 0, 0x15, 14, 0x15, 2, 0x2c, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6][..],
            &statistics,
            &[0, 0, b'c'],
        ]
        .concat();
        let chunk = [&dictionary[..], &page].concat();
        assert_eq!(claims(&chunk), Some(Claims { bytes: 107, entries: 3 }));
        for end in 1..chunk.len() {
            assert!(end == dictionary.len() || claims(&chunk[..end]).is_none(), "{end}");
        }
    }

    /// The parquet crate reads integers regardless of the declared type: here one is hidden behind
    /// a boolean.
    #[test]
    fn fields_of_unexpected_types_are_errors() {
        for header in [
            &[0x15, 0, 0x11, 0x15, 14, 0][..],
            &[0x15, 0, 0x15, 14, 0x15, 0, 0x4c, 0x11, 6, 0, 0],
            &[0x15, 0, 0x15, 14, 0x15, 0, 0x79, 0x11, 0, 0],
        ] {
            assert_eq!(claims(header), None);
        }
    }
}
