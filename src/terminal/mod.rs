//! What the user sees: replies and errors, figures, progress and long text on the terminal.

mod image_query;
pub mod images;
pub mod pager;
mod plain_progress;
pub mod progress;
pub mod render;
pub mod screen;
