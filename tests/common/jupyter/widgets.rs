//! Widgets, as a front end sees them.

use std::time::Duration;

use jupyter_protocol::messaging::{CommClose, CommId, CommMsg, CommOpen};
use serde_json::{Map, Value, json};

use super::kernel::Kernel;
use super::result::CellResult;

/// How long a widget may take to change.
const LIMIT: Duration = Duration::from_secs(60);

impl CellResult {
    /// The states of the widgets of one class that the cell opened, with their comm ids in `id`.
    pub fn widgets(&self, class: &str) -> Vec<Value> {
        let opened = self.comms.iter().filter(|comm| comm["type"] == "comm_open");
        let state = |comm: &Value| {
            let mut state = comm["data"]["state"].clone();
            state["id"] = comm["comm_id"].clone();
            state
        };
        opened.map(state).filter(|state| state["_model_name"] == class).collect()
    }

    /// The comm id of the only widget of this class.
    pub fn widget(&self, class: &str) -> String {
        match &self.widgets(class)[..] {
            [one] => one["id"].as_str().unwrap().to_owned(),
            all => panic!("{} widgets of the class {class}: {self:?}", all.len()),
        }
    }
}

impl Kernel {
    /// Sends `data` to a comm.
    pub fn send_comm(&mut self, id: &str, data: Value) {
        self.send_request(CommMsg { comm_id: CommId(id.into()), data: object(data) });
    }

    /// Sets a part of the state of a widget, as moving a slider does.
    pub fn set_widget(&mut self, id: &str, state: Value) {
        self.send_comm(id, json!({"method": "update", "state": state}));
    }

    /// Clicks a button.
    pub fn click(&mut self, id: &str) {
        self.send_comm(id, json!({"method": "custom", "content": {"event": "click"}}));
    }

    /// Opens a comm.
    pub fn open_comm(&mut self, id: &str, target: &str) {
        let target_name = target.into();
        self.send_request(CommOpen {
            comm_id: CommId(id.into()),
            target_name,
            ..Default::default()
        });
    }

    /// Closes a comm.
    pub fn close_comm(&mut self, id: &str) {
        self.send_request(CommClose { comm_id: CommId(id.into()), ..Default::default() });
    }

    /// The next message about widgets that `is_wanted` accepts, with its type in `type`.
    pub fn comm(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.published(LIMIT);
            let kind = message.message_type().to_owned();
            let mut comm = json!(message.content);
            if kind.starts_with("comm_") {
                comm["type"] = kind.into();
                if is_wanted(&comm) {
                    return comm;
                }
            }
        }
    }

    /// The HTML of the widget `id`, once it contains `text`.
    pub fn html(&mut self, id: &str, text: &str) -> String {
        let value = |comm: &Value| comm["data"]["state"]["value"].as_str().map(str::to_owned);
        let comm = self.comm(|comm| {
            comm["comm_id"] == id && value(comm).is_some_and(|html| html.contains(text))
        });
        value(&comm).unwrap_or_default()
    }
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}
