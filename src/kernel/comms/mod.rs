//! Comms: the channels between widgets in the front end and their counterparts in the cells'
//! process, in both directions.
//!
//! ```text
//! front end -- comm_msg on the shell socket --> channels -- {"op": "comm"} on the link --> prelude
//! front end <-- comm_msg on the iopub socket -- channels <-- blocks on standard output --- prelude
//! ```
//!
//! The kernel keeps the state of every widget, so that it can answer a page that was reloaded while
//! a cell runs, and closes all widgets when the cells' process ends.

pub mod channels;
mod widgets;
