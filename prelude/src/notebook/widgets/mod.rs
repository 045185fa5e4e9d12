//! Controls of the notebook: sliders, lists, buttons and text fields that run a closure between
//! cells, without compiling.
//!
//! ```text
//! model.rs       a widget of the front end: its class, state and events
//! dispatch.rs    the thread that runs closures, the latest value only
//! output.rs      what a closure returns, as HTML
//! control.rs     a control: an input, its closure, and what that returned
//! slider.rs dropdown.rs button.rs text_field.rs
//! ```

mod button;
mod control;
mod dispatch;
mod dropdown;
pub(in crate::notebook) mod model;
mod output;
pub(in crate::notebook) mod slider;
mod text_field;

pub use button::Button;
pub use control::{Control, Input};
pub use dropdown::Dropdown;
pub use output::{IntoOutput, Output};
pub use slider::Slider;
pub use text_field::Text;
