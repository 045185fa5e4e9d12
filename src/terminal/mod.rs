//! What the user sees: replies and errors, figures, progress and long text on the terminal.

mod image_query;
pub mod pager;
pub mod progress;
pub mod render;
pub mod screen;
