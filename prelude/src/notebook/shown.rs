//! What the last line of a cell shows, of any type.
//!
//! evcxr calls `evcxr_display` where a type has it, and shows what `Debug` writes where that does not compile: also
//! where a variable was moved into what is shown, and without numbers of a tensor. So the kernel of `dam` has the value
//! shown by [`shown!`](crate::shown), which chooses by the type alone. Method calls do the choosing: what takes the value as it is
//! comes before what takes a reference to it, and a type's own methods before all.

use std::fmt::{Debug, Write};

use candle_core::{Tensor, Var};

/// Shows the value of an expression as the result of a cell: what is in a `Result`, or its error; by `evcxr_display`, if
/// its type has that; a tensor by its numbers; all else by `Debug`.
#[macro_export]
macro_rules! shown {
    ($value:expr) => {
        match &$value {
            value => {
                #[allow(unused_imports)]
                use $crate::notebook::{ByDebug as _, ByNumbers as _, InResult as _, Itself as _};
                match value.dam_inside() {
                    ::std::result::Result::Ok(inside) => inside.evcxr_display(),
                    ::std::result::Result::Err(error) => $crate::notebook::show_error(&error),
                }
            }
        }
    };
}

/// What stands in the table of variables for the value of one.
#[macro_export]
macro_rules! summary {
    ($value:expr) => {{
        #[allow(unused_imports)]
        use $crate::notebook::{Nameless as _, Summed as _};
        (&&$value).dam_summary()
    }};
}

/// What has something inside that is shown instead.
pub trait InResult {
    /// What is inside.
    type Inside: ?Sized;

    /// What is inside, or the error that is, as `Debug` writes it.
    ///
    /// # Errors
    /// That error.
    fn dam_inside(&self) -> Result<&Self::Inside, String>;
}

impl<T, E: Debug> InResult for Result<T, E> {
    type Inside = T;

    fn dam_inside(&self) -> Result<&T, String> {
        self.as_ref().map_err(|error| format!("{error:?}"))
    }
}

/// What is shown itself.
pub trait Itself<T: ?Sized> {
    /// It itself.
    ///
    /// # Errors
    /// None.
    fn dam_inside(&self) -> Result<&T, String>;
}

impl<T: ?Sized> Itself<T> for &T {
    fn dam_inside(&self) -> Result<&T, String> {
        Ok(self)
    }
}

/// What shows itself by its numbers.
pub trait ByNumbers {
    /// Shows it as the result of a cell.
    fn evcxr_display(&self);
}

impl ByNumbers for Tensor {
    fn evcxr_display(&self) {
        plain(&self.to_string());
    }
}

impl ByNumbers for Var {
    fn evcxr_display(&self) {
        plain(&self.as_tensor().to_string());
    }
}

/// What shows itself as `Debug` writes it.
pub trait ByDebug<T: ?Sized> {
    /// Shows it as the result of a cell.
    fn evcxr_display(&self)
    where
        T: Debug;
}

impl<T: ?Sized> ByDebug<T> for &T {
    fn evcxr_display(&self)
    where
        T: Debug,
    {
        plain(&format!("{self:?}"));
    }
}

/// Shows the error in a `Result` that no `?` looked into.
pub fn show_error(error: &str) {
    plain(&format!("error: {error}\n(this value is an error; a `?` behind it makes the cell fail)"));
}

fn plain(text: &str) {
    println!("EVCXR_BEGIN_CONTENT text/plain\n{text}\nEVCXR_END_CONTENT");
}

/// What the table of variables says of one.
pub trait Summed {
    /// Its value, in a line.
    fn dam_summary(&self) -> String;
}

impl<T: Debug + ?Sized> Summed for &T {
    fn dam_summary(&self) -> String {
        let mut line = Line(String::new());
        // That there is no more room is no error.
        let _ = write!(line, "{self:?}");
        line.0
    }
}

/// What has no value to be written.
pub trait Nameless {
    /// Nothing.
    fn dam_summary(&self) -> String;
}

impl<T: ?Sized> Nameless for &&T {
    fn dam_summary(&self) -> String {
        String::new()
    }
}

/// The characters of a line.
const LINE: usize = 60;

/// The beginning of what is written, in one line; the rest is not even made.
struct Line(String);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            if self.0.chars().count() == LINE {
                self.0.push('…');
            }
            if self.0.chars().count() > LINE {
                return Err(std::fmt::Error);
            }
            self.0.push(if c.is_control() { ' ' } else { c });
        }
        Ok(())
    }
}

/// Shows variables, each with its type and value, as a table.
pub fn variables(all: &[(&str, &str, String)]) {
    let mut table = crate::show::Table::new("", ["variable", "type", "value"]);
    table.words.extend([1, 2]);
    table.rows = all.iter().map(|(name, kind, value)| vec![(*name).to_owned(), (*kind).to_owned(), value.clone()]).collect();
    if all.is_empty() {
        table.notes.push("no variables yet".into());
    }
    table.evcxr_display();
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_summary_is_a_line_and_of_what_cannot_be_written_nothing() {
        struct Silent;
        let (long, list) = ("x\n".repeat(100), vec![1, 2]);
        assert_eq!(crate::summary!(list), "[1, 2]");
        assert_eq!(crate::summary!(Silent), "");
        assert_eq!(crate::summary!(*"十"), "\"十\"");
        let summary = crate::summary!(long);
        assert_eq!((summary.chars().count(), summary.ends_with('…')), (61, true));
    }
}
