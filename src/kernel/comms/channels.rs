//! Handles the messages of both sides. What a front end sends is not trusted: messages to unknown
//! widgets, unknown methods and malformed data are ignored, and what it opens is limited.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use dam_prelude::notebook::COMM;
use jupyter_protocol::messaging::{
    CommClose, CommId, CommInfo, CommInfoReply, CommMsg, CommOpen, JupyterMessageContent,
};
use serde_json::{Map, Value, json};

use super::widgets::{WidgetState, Widgets};

/// The target of widgets, and that of channels on which a front end requests the states of all.
const WIDGET: &str = "jupyter.widget";
const CONTROL: &str = "jupyter.widget.control";

/// The version of the widget protocol.
const VERSION: &str = "2.1.0";

/// The most open control channels; a front end opens one per page.
const MAX_CONTROLS: usize = 64;

/// The longest id of a comm, and the most bytes of a widget's own message.
const MAX_ID: usize = 256;
const MAX_CUSTOM: usize = 64 << 10;

/// A message to the front end, and the metadata that goes with it.
pub type Outgoing = (JupyterMessageContent, Value);

/// All comms of a kernel.
#[derive(Default)]
pub struct Channels(Mutex<State>);

#[derive(Default)]
struct State {
    widgets: Widgets,
    /// Control channels, oldest first.
    controls: VecDeque<String>,
    /// The cells' process.
    process: Value,
}

impl Channels {
    /// Handles a message of the cells' process, and passes what the front end is to receive to
    /// `publish`; returns whether the message concerned comms.
    ///
    /// Messages are published under the lock, so that their order is that of the states.
    pub fn receive(&self, message: &Value, publish: impl FnMut(Outgoing)) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if message["block"] == COMM {
            let content = message["content"].as_str().unwrap_or_default();
            let content: Value = serde_json::from_str(content).unwrap_or_default();
            state.take_from_cells(&content).into_iter().for_each(publish);
            return true;
        }
        // A process that begins or ends has left its widgets behind.
        if message["hello"] == "cells" {
            state.process = message["pid"].clone();
        } else if message["ended"].is_null() || message["ended"] != state.process {
            return false;
        }
        let closed = state.widgets.close_all();
        closed.iter().map(|id| close(id)).for_each(publish);
        true
    }

    /// Handles a comm message of the front end, and passes what all front ends are to receive to
    /// `publish`; returns the message for the cells' process, if there is one.
    pub fn request(
        &self,
        message: &JupyterMessageContent,
        publish: impl FnMut(Outgoing),
    ) -> Option<Value> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (outgoing, to_cells) = state.take_from_client(message);
        outgoing.into_iter().for_each(publish);
        to_cells
    }

    /// The open widgets; none for another target.
    pub fn info(&self, target: Option<&str>) -> CommInfoReply {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let info = || CommInfo { target_name: WIDGET.to_owned() };
        let all = state.widgets.ids().filter(|_| target.is_none_or(|target| target == WIDGET));
        let comms = all.map(|id| (CommId(id.clone()), info())).collect();
        CommInfoReply { comms, ..CommInfoReply::default() }
    }
}

impl State {
    /// `{"open": ID, "state": ...}`, `{"update": ID, "state": ...}` or `{"close": ID}`.
    fn take_from_cells(&mut self, content: &Value) -> Option<Outgoing> {
        let changes = || content["state"].as_object().cloned().unwrap_or_default();
        if let Some(id) = content["open"].as_str() {
            self.widgets.open(id, changes());
            let data = object(json!({"state": changes(), "buffer_paths": []}));
            let comm_id = CommId(id.to_owned());
            let target_name = WIDGET.to_owned();
            let open = CommOpen { comm_id, target_name, data, target_module: None };
            return Some((open.into(), json!({"version": VERSION})));
        }
        if let Some(id) = content["update"].as_str() {
            return self.widgets.update(id, &changes()).then(|| update(id, "update", &changes()));
        }
        let id = content["close"].as_str()?;
        self.widgets.close(id).then(|| close(id))
    }

    fn take_from_client(
        &mut self,
        message: &JupyterMessageContent,
    ) -> (Option<Outgoing>, Option<Value>) {
        match message {
            JupyterMessageContent::CommOpen(open) => (self.open(open), None),
            JupyterMessageContent::CommMsg(message) => self.message(message),
            JupyterMessageContent::CommClose(closed) => {
                let id = &closed.comm_id.0;
                self.controls.retain(|control| control != id);
                let was_open = self.widgets.close(id);
                (None, was_open.then(|| json!({"op": "comm", "id": id, "closed": true})))
            }
            _ => (None, None),
        }
    }

    /// A front end opens control channels; what else it opens is closed again.
    fn open(&mut self, open: &CommOpen) -> Option<Outgoing> {
        let id = &open.comm_id.0;
        if open.target_name == CONTROL && id.len() <= MAX_ID {
            self.controls.retain(|control| control != id);
            self.controls.push_back(id.clone());
            let oldest = (self.controls.len() > MAX_CONTROLS).then(|| self.controls.pop_front());
            return oldest.flatten().map(|oldest| close(&oldest));
        }
        self.widgets.get(id).is_none().then(|| close(id))
    }

    fn message(&mut self, message: &CommMsg) -> (Option<Outgoing>, Option<Value>) {
        let (id, data) = (&message.comm_id.0, &message.data);
        let method = data.get("method").and_then(Value::as_str).unwrap_or_default();
        if self.controls.contains(id) {
            let states = || {
                let states = self.widgets.states();
                let data = json!({"method": "update_states", "states": states, "buffer_paths": []});
                comm_message(id, data)
            };
            return ((method == "request_states").then(states), None);
        }
        let Some(state) = self.widgets.get(id) else { return (None, None) };
        match method {
            "request_state" => (Some(update(id, "update", state)), None),
            "update" => {
                let changes = data.get("state").and_then(Value::as_object).cloned();
                let accepted = self.widgets.accept(id, &changes.unwrap_or_default());
                if accepted.is_empty() {
                    return (None, None);
                }
                let to_cells = json!({"op": "comm", "id": id, "state": accepted});
                // Other front ends follow by the echo.
                (Some(update(id, "echo_update", &accepted)), Some(to_cells))
            }
            "custom" => {
                let content = data.get("content").unwrap_or(&Value::Null);
                let is_short = content.to_string().len() <= MAX_CUSTOM;
                (None, is_short.then(|| json!({"op": "comm", "id": id, "content": content})))
            }
            _ => (None, None),
        }
    }
}

fn update(id: &str, method: &str, state: &WidgetState) -> Outgoing {
    comm_message(id, json!({"method": method, "state": state, "buffer_paths": []}))
}

fn comm_message(id: &str, data: Value) -> Outgoing {
    (CommMsg { comm_id: CommId(id.to_owned()), data: object(data) }.into(), json!({}))
}

fn close(id: &str) -> Outgoing {
    let closed = CommClose { comm_id: CommId(id.to_owned()), data: Map::new() };
    (closed.into(), json!({}))
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel publishes for a message of the cells' process.
    fn receive(channels: &Channels, content: Value) -> Vec<Value> {
        let mut sent = Vec::new();
        let block = json!({"block": COMM, "content": content.to_string()});
        assert!(channels.receive(&block, |(message, _)| sent.push(json!(message))));
        sent
    }

    /// What the kernel publishes for a message of the front end, and sends to the cells' process.
    fn request(
        channels: &Channels,
        message: impl Into<JupyterMessageContent>,
    ) -> (Vec<Value>, Option<Value>) {
        let mut sent = Vec::new();
        let to_cells = channels.request(&message.into(), |(message, _)| sent.push(json!(message)));
        (sent, to_cells)
    }

    fn to_widget(id: &str, data: Value) -> CommMsg {
        CommMsg { comm_id: CommId(id.into()), data: object(data) }
    }

    fn with_slider() -> Channels {
        let channels = Channels::default();
        receive(&channels, json!({"open": "a", "state": {"_model_name": "M", "value": 0.5}}));
        channels
    }

    #[test]
    fn an_update_is_echoed_and_reaches_the_cells() {
        let channels = with_slider();
        let data = json!({"method": "update", "state": {"value": 0.75}});
        let (sent, to_cells) = request(&channels, to_widget("a", data));
        assert_eq!(sent[0]["data"]["method"], "echo_update");
        assert_eq!(to_cells.unwrap(), json!({"op": "comm", "id": "a", "state": {"value": 0.75}}));
        let (sent, _) = request(&channels, to_widget("a", json!({"method": "request_state"})));
        assert_eq!(sent[0]["data"]["state"]["value"], 0.75);
        assert_eq!(channels.info(None).comms.len(), 1);
        assert_eq!(channels.info(Some("other")).comms.len(), 0);
    }

    #[test]
    fn a_page_gets_all_states_on_a_control_channel() {
        let channels = with_slider();
        let control = CommOpen {
            comm_id: CommId("page".into()),
            target_name: CONTROL.into(),
            ..CommOpen::default()
        };
        assert_eq!(request(&channels, control), (Vec::new(), None));
        let (sent, _) = request(&channels, to_widget("page", json!({"method": "request_states"})));
        assert_eq!(sent[0]["data"]["states"]["a"]["state"]["value"], 0.5);
    }

    #[test]
    fn what_is_unknown_or_malformed_is_ignored() {
        let channels = with_slider();
        for data in [
            json!({}),
            json!({"method": 7}),
            json!({"method": "update"}),
            json!({"method": "update", "state": [1]}),
            json!({"method": "update", "state": {"value": "wide"}}),
            json!({"method": "custom", "content": "x".repeat(MAX_CUSTOM)}),
        ] {
            assert_eq!(request(&channels, to_widget("a", data)), (Vec::new(), None));
        }
        let data = json!({"method": "update", "state": {"value": 1.0}});
        assert_eq!(request(&channels, to_widget("b", data)), (Vec::new(), None));
        assert!(receive(&channels, json!({"update": "b", "state": {}})).is_empty());
        assert!(receive(&channels, json!([1])).is_empty());
        // A channel that nothing serves is closed.
        let open = CommOpen {
            comm_id: CommId("c".into()),
            target_name: "other".into(),
            ..CommOpen::default()
        };
        assert_eq!(request(&channels, open).0[0]["comm_id"], "c");
    }

    #[test]
    fn widgets_close_with_their_process() {
        let channels = with_slider();
        let mut closed = Vec::new();
        let hello = json!({"hello": "cells", "pid": 7});
        assert!(channels.receive(&hello, |(message, _)| closed.push(json!(message))));
        assert_eq!((closed[0]["comm_id"].as_str(), closed.len()), (Some("a"), 1));
        receive(&channels, json!({"open": "b", "state": {}}));
        // An earlier process that ends late has no widgets any more.
        assert!(!channels.receive(&json!({"ended": 6}), |_| panic!("closed")));
        assert!(channels.receive(&json!({"ended": 7}), |(message, _)| closed.push(json!(message))));
        assert_eq!((closed[1]["comm_id"].as_str(), closed.len()), (Some("b"), 2));
        assert!(!channels.receive(&json!({"out": "text"}), |_| ()));
    }
}
