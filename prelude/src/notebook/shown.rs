//! Displays the value of the last line of a cell, for any type.
//!
//! evcxr calls `evcxr_display` if the type has it, and otherwise prints `Debug` if that compiles.
//! That fails for a moved variable, and omits the values of tensors. The kernel of `dam` therefore
//! uses [`shown!`](crate::shown), which selects by type with method resolution: methods on the
//! value come before methods on a reference, and a type's own methods before both.

use std::fmt::{Debug, Write};

use candle_core::{Tensor, Var};

/// Displays the value of an expression as the result of a cell: the content of a `Result`, or its
/// error; with `evcxr_display` if the type has it; a tensor with its values; anything else with
/// `Debug`.
#[macro_export]
macro_rules! shown {
    ($value:expr) => {
        match &$value {
            value => {
                #[allow(unused_imports)]
                use $crate::notebook::{Bare as _, ByDebug as _, ByNumbers as _, Unwrap as _};
                match value.dam_inside() {
                    ::std::result::Result::Ok(inside) => inside.evcxr_display(),
                    ::std::result::Result::Err(error) => $crate::notebook::show_error(&error),
                }
            }
        }
    };
}

/// Returns the value of a variable for the table of variables.
#[macro_export]
macro_rules! summary {
    ($value:expr) => {{
        #[allow(unused_imports)]
        use $crate::notebook::{NoSummary as _, Summary as _};
        (&&$value).dam_summary()
    }};
}

/// A wrapper whose content is displayed.
pub trait Unwrap {
    /// The type of the content.
    type Inside: ?Sized;

    /// Returns the content, or the error formatted with `Debug`.
    ///
    /// # Errors
    /// The error in the `Result`.
    fn dam_inside(&self) -> Result<&Self::Inside, String>;
}

impl<T, E: Debug> Unwrap for Result<T, E> {
    type Inside = T;

    fn dam_inside(&self) -> Result<&T, String> {
        self.as_ref().map_err(|error| format!("{error:?}"))
    }
}

/// A value that is displayed itself.
pub trait Bare<T: ?Sized> {
    /// Returns the value.
    ///
    /// # Errors
    /// None.
    fn dam_inside(&self) -> Result<&T, String>;
}

impl<T: ?Sized> Bare<T> for &T {
    fn dam_inside(&self) -> Result<&T, String> {
        Ok(self)
    }
}

/// A value displayed by its numbers.
pub trait ByNumbers {
    /// Displays it as the result of a cell.
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

/// A value displayed with `Debug`.
pub trait ByDebug<T: ?Sized> {
    /// Displays it as the result of a cell.
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

/// Displays the error of a `Result` used without `?`.
pub fn show_error(error: &str) {
    plain(&format!("error: {error}\n(this value is an error; add `?` to make the cell fail)"));
}

fn plain(text: &str) {
    println!("EVCXR_BEGIN_CONTENT text/plain\n{text}\nEVCXR_END_CONTENT");
}

/// A value with a summary for the table of variables.
pub trait Summary {
    /// Returns the value in one line.
    fn dam_summary(&self) -> String;
}

impl<T: Debug + ?Sized> Summary for &T {
    fn dam_summary(&self) -> String {
        let mut line = OneLine(String::new());
        // A full line is not an error.
        let _ = write!(line, "{self:?}");
        line.0
    }
}

/// A value without a summary.
pub trait NoSummary {
    /// Returns an empty string.
    fn dam_summary(&self) -> String;
}

impl<T: ?Sized> NoSummary for &&T {
    fn dam_summary(&self) -> String {
        String::new()
    }
}

/// The maximum length of a summary in characters.
const LINE: usize = 60;

/// Collects the start of formatted text, in one line; formatting stops when it is full.
struct OneLine(String);

impl Write for OneLine {
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

/// Displays variables as a table with types and values.
pub fn variables(all: &[(&str, &str, String)]) {
    let mut table = crate::show::Table::new("", ["variable", "type", "value"]);
    table.text_columns.extend([1, 2]);
    table.rows = all
        .iter()
        .map(|(name, kind, value)| vec![(*name).to_owned(), (*kind).to_owned(), value.clone()])
        .collect();
    if all.is_empty() {
        table.notes.push("no variables yet".into());
    }
    table.evcxr_display();
}

#[cfg(test)]
mod tests {
    #[test]
    fn summaries_are_one_line_and_empty_without_debug() {
        struct Silent;
        let (long, list) = ("x\n".repeat(100), vec![1, 2]);
        assert_eq!(crate::summary!(list), "[1, 2]");
        assert_eq!(crate::summary!(Silent), "");
        assert_eq!(crate::summary!(*"十"), "\"十\"");
        let summary = crate::summary!(long);
        assert_eq!((summary.chars().count(), summary.ends_with('…')), (61, true));
    }
}
