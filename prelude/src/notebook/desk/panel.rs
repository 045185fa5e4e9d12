//! The widgets of a desk: sliders by group and source, buttons, a prompt, and what follows from
//! them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::json;

use super::groups::{Group, SliderId};
use crate::DeskSettings;
use crate::notebook::widgets::model::Model;
use crate::notebook::widgets::slider::on_grid;
use crate::show::escape;

/// The widths of the names of groups and of a slider.
const LABEL: &str = "8em";
const SLIDER: &str = "18em";

/// The distance between two positions of a slider.
pub(super) const STEP: f64 = 0.01;

/// The widgets of a desk.
pub(super) struct Panel {
    pub root: Model,
    /// By group and source.
    pub sliders: Vec<Vec<Model>>,
    pub buttons: Buttons,
    pub prompt: Model,
    /// One line each: where training is, and errors.
    pub status: Model,
    pub message: Model,
    pub answer: Model,
    pub loss: Model,
    /// The ends of each slider.
    ranges: Mutex<BTreeMap<SliderId, (f64, f64)>>,
    /// All widgets.
    all: Vec<Model>,
}

/// The buttons of a desk.
pub(super) struct Buttons {
    pub step: Model,
    pub train: Model,
    pub stop: Model,
    pub undo: Model,
    pub redo: Model,
}

/// Collects widgets, so that they can be closed.
#[derive(Default)]
struct Opened(Vec<Model>);

impl Opened {
    fn add(&mut self, model: Model) -> Model {
        self.0.push(model.clone());
        model
    }

    fn html(&mut self, html: &str, layout: Option<&Model>) -> Model {
        let layout = layout.map(Model::reference);
        self.add(Model::control("HTML", json!({"value": html, "layout": layout})))
    }

    fn button(&mut self, label: &str, tooltip: &str) -> Model {
        let layout = self.add(Model::layout(json!({"width": "auto"})));
        let state = json!({"description": label, "tooltip": tooltip, "layout": layout.reference()});
        self.add(Model::control("Button", state))
    }

    fn row(&mut self, children: &[&Model]) -> Model {
        self.add(Model::row(children.iter().copied()))
    }
}

impl Panel {
    /// Opens the widgets, with `means` by group and source.
    pub fn open(
        groups: &[Group],
        sources: &[String],
        means: &[Vec<f64>],
        settings: &DeskSettings,
    ) -> Self {
        let mut opened = Opened::default();
        let label = opened.add(Model::layout(json!({"width": LABEL})));
        let wide = opened.add(Model::layout(json!({"width": SLIDER})));
        let whole = opened.add(Model::layout(json!({"width": "98%"})));

        let mut head = vec![opened.html("", Some(&label))];
        let bold = |name: &String| format!("<b>{}</b>", escape(name));
        head.extend(sources.iter().map(|name| opened.html(&bold(name), Some(&wide))));
        let mut rows = vec![opened.row(&head.iter().collect::<Vec<_>>())];
        let (mut sliders, mut ranges) = (Vec::new(), BTreeMap::new());
        for (i, (group, means)) in groups.iter().zip(means).enumerate() {
            let name = opened.html(&escape(&group.label), Some(&label));
            let slider = |mean: &f64| opened.add(slider(*mean, &wide));
            let own: Vec<Model> = means.iter().map(slider).collect();
            let row: Vec<&Model> = std::iter::once(&name).chain(&own).collect();
            rows.push(opened.row(&row));
            sliders.push(own);
            ranges.extend(means.iter().enumerate().map(|(j, mean)| ((i, j), range(*mean))));
        }

        let buttons = Buttons {
            step: opened.button("step", "one step of training"),
            train: opened
                .button(&format!("train {}", settings.steps), "train; stop keeps every step"),
            stop: opened.button("stop", "stop what is running, also a cell; every step is kept"),
            undo: opened.button("undo", "undo the last change"),
            redo: opened.button("redo", "redo what was undone"),
        };
        let Buttons { step, train, stop, undo, redo } = &buttons;
        rows.push(opened.row(&[step, train, stop, undo, redo]));
        let status = opened.html("", None);
        let message = opened.html("", None);
        let style = opened.add(Model::style("TextStyleModel"));
        let field = json!({
            "description": "prompt", "value": settings.prompt, "continuous_update": false,
            "layout": whole.reference(), "style": style.reference(),
        });
        let prompt = opened.add(Model::control("Text", field));
        let answer = opened.html("", Some(&whole));
        let loss = opened.html("", Some(&whole));
        rows.extend([&status, &message, &prompt, &answer, &loss].map(Model::clone));
        let root = opened.add(Model::column(&rows));
        Self {
            root,
            sliders,
            buttons,
            prompt,
            status,
            message,
            answer,
            loss,
            ranges: Mutex::new(ranges),
            all: opened.0,
        }
    }

    /// Moves a slider to `mean`.
    pub fn move_slider(&self, (group, source): SliderId, mean: f64) {
        let slider = self.sliders.get(group).and_then(|row| row.get(source));
        let Some(slider) = slider else { return };
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let range = ranges.entry((group, source)).or_insert_with(|| range(mean));
        if !(range.0 - STEP..=range.1 + STEP).contains(&mean) {
            *range = self::range(mean);
            slider.update(json!({"min": range.0, "max": range.1}));
        }
        slider.update(json!({"value": on_grid(mean, range.0, range.1, STEP)}));
    }

    /// Closes the widgets, and leaves `html` in their place, also on a page that is opened again.
    pub fn close(&self, html: &str) {
        self.answer.show_html(html);
        self.root.update(json!({"children": [self.answer.reference()]}));
        let kept = [&self.root, &self.answer];
        let closed = self.all.iter().rev().filter(|model| !kept.iter().any(|k| k.is_same(model)));
        closed.for_each(Model::close);
    }

    /// Closes all widgets.
    pub fn discard(&self) {
        self.all.iter().rev().for_each(Model::close);
    }
}

/// A slider at `mean`, wide enough to move past it.
fn slider(mean: f64, layout: &Model) -> Model {
    let (min, max) = range(mean);
    let state = json!({
        "value": on_grid(mean, min, max, STEP), "min": min, "max": max, "step": STEP, "continuous_update": true,
        "readout_format": ".2f", "layout": layout.reference(),
    });
    Model::control("FloatSlider", state)
}

/// The ends of a slider that has `mean` between them.
fn range(mean: f64) -> (f64, f64) {
    let (least, most) = (-0.5, 1.5);
    if (least..=most).contains(&mean) || !mean.is_finite() {
        return (least, most);
    }
    ((mean - 0.5).floor().min(least), (mean + 0.5).ceil().max(most))
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_slider_has_room_on_both_sides() {
        assert_eq!(range(0.5), (-0.5, 1.5));
        assert_eq!(range(2.3), (-0.5, 3.0));
        assert_eq!(range(-1.2), (-2.0, 1.5));
        assert_eq!(range(f64::NAN), (-0.5, 1.5));
    }
}
