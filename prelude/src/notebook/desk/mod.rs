//! A desk: a merge under sliders and buttons, in a notebook.
//!
//! ```text
//! panel.rs    the widgets
//! groups.rs   which tensors a slider moves
//! inputs.rs   what the widgets say, the latest only      (the thread that receives)
//! worker.rs   does it, and shows what follows            (the thread of the desk)
//! pending.rs  moves and steps that become one state
//! still.rs    the picture where there are no controls
//! ```

mod groups;
mod inputs;
mod panel;
mod pending;
mod still;
mod worker;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use self::groups::{Group, groups};
use self::inputs::Inputs;
use self::panel::Panel;
pub(super) use self::pending::Recorder;
use self::still::Still;
use self::worker::{Stale, Worker};
use super::turns::Turn;
use crate::Dam;
use crate::error::{Error, Result, refuse};
use crate::session::KnownAnswers;

/// The settings of a desk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeskSettings {
    /// The prompt at first.
    pub prompt: String,
    /// The most tokens of an answer.
    pub tokens: usize,
    /// The steps of the button `train`.
    pub steps: usize,
}

impl Default for DeskSettings {
    fn default() -> Self {
        Self { prompt: "What is 12 plus 7?".into(), tokens: 32, steps: 50 }
    }
}

/// A desk in the notebook, from [`Dam::desk`]. It is a handle: the desk stays when it is dropped,
/// until it is closed or the kernel is restarted.
#[derive(Clone)]
pub struct Desk(Arc<Open>);

struct Open {
    dam: Dam,
    inputs: Arc<Inputs>,
    panel: Panel,
    groups: Vec<Group>,
    sources: Vec<String>,
    still: Mutex<Still>,
}

/// All desks, for a stop, and so that a merge has one.
static DESKS: Mutex<Vec<Weak<Open>>> = Mutex::new(Vec::new());

fn desks() -> Vec<Arc<Open>> {
    let mut desks = DESKS.lock().unwrap_or_else(PoisonError::into_inner);
    desks.retain(|desk| desk.strong_count() > 0);
    desks.iter().filter_map(Weak::upgrade).collect()
}

/// Stops what all desks are doing.
pub(super) fn stop_all() {
    desks().iter().for_each(|desk| desk.inputs.stop());
}

impl Dam {
    /// Opens a desk for this merge in a notebook: a slider per source and group of layers; buttons
    /// to step, train, stop, undo and redo; a prompt, the answer of the merge with its
    /// probabilities, and the loss, which follow the sliders without compiling.
    ///
    /// The desk and the cells share the session. A slider is at the mean coefficient of its source
    /// in its tensors, and a move scales them, as [`Dam::mix`] does. The moves of one slider, and
    /// the steps of one training, are one state each for `%undo`, `%history` and `%export`. While a
    /// cell runs, the desk waits. A second desk for the same merge closes the first.
    ///
    /// ```
    /// use dam_prelude::*;
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let desk = dam.desk()?;
    /// assert!(desk.to_string().contains("12 + 7 = 19")); // the answer of a source
    /// desk.close();
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// A tensor that the scheme cannot compute, or [`Error::Interrupted`].
    pub fn desk(&self) -> Result<Desk> {
        self.desk_with(&DeskSettings::default())
    }

    /// Like [`Dam::desk`], with settings.
    ///
    /// # Errors
    /// As for [`Dam::desk`], or no steps or tokens.
    pub fn desk_with(&self, settings: &DeskSettings) -> Result<Desk> {
        for (key, value) in [("steps", settings.steps), ("tokens", settings.tokens)] {
            if value == 0 {
                return Err(Error::bad_value(key, "0", "at least 1"));
            }
        }
        desks().into_iter().filter(|desk| desk.dam.is_same(self)).for_each(|desk| {
            Desk(desk).close();
        });
        let groups = groups(&self.tensor_names());
        let mut means = Vec::new();
        let mut sources: Vec<String> = Vec::new();
        for group in &groups {
            let own = self.mean_coefficients(&group.pattern)?;
            sources = own.iter().map(|(name, _)| name.clone()).collect();
            means.push(own.into_iter().map(|(_, mean)| mean).collect::<Vec<_>>());
        }
        let panel = Panel::open(&groups, &sources, &means, settings);
        let (inputs, still) = (Arc::<Inputs>::default(), Mutex::<Still>::default());
        let open = Arc::new(Open { dam: self.clone(), inputs, panel, groups, sources, still });
        let mut worker = Worker {
            desk: Arc::clone(&open),
            settings: settings.clone(),
            known: KnownAnswers::default(),
            training: 0,
            stale: Stale::default(),
            state: self.state(),
            turn: Turn::now(),
            is_pending: false,
            updated: Instant::now(),
        };
        let begun = worker.show_all().and_then(|()| begin(worker));
        begun.inspect_err(|_| open.panel.discard())?;
        open.inputs.connect(&open.panel);
        DESKS.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&open));
        Ok(Desk(open))
    }
}

/// Starts the thread of a desk.
fn begin(worker: Worker) -> Result<()> {
    let thread = std::thread::Builder::new().name("desk".into());
    match thread.spawn(move || worker.run()) {
        Ok(_) => Ok(()),
        Err(error) => {
            refuse(format!("the system does not start a thread: {error}"), "close other programs")
        }
    }
}

impl Desk {
    /// Closes the desk. The notebook keeps a picture of it, and the merge is as it was left.
    pub fn close(&self) {
        let Open { inputs, panel, .. } = &*self.0;
        inputs.add(|waiting| waiting.close = true);
        // A page knows the display until it is closed, and the widget always.
        panel.root.replace(&self.html(), &self.to_string());
        panel.close(&self.html());
    }

    /// Shows the desk as the result of an evcxr cell.
    pub fn evcxr_display(&self) {
        self.0.panel.root.display_live(&self.html(), &self.to_string());
    }

    fn html(&self) -> String {
        self.tables().iter().map(crate::show::Table::html).collect()
    }

    fn tables(&self) -> Vec<crate::show::Table> {
        let Open { groups, sources, still, .. } = &*self.0;
        let still = still.lock().unwrap_or_else(PoisonError::into_inner).clone();
        still.tables(groups, sources)
    }
}

impl fmt::Display for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<String> = self.tables().iter().map(ToString::to_string).collect();
        f.write_str(&tables.join("\n\n"))
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Desk({:?})", self.0.dam)
    }
}
