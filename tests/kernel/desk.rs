//! A merge under sliders and buttons: `dam.desk()`.

use serde_json::{Value, json};

use crate::common::jupyter::{CellResult, Kernel};
use crate::{MERGE, shared};

/// The ids of a desk's widgets, from the cell that opened it.
struct Desk {
    /// Row by row: one per source.
    sliders: Vec<String>,
    buttons: Vec<(String, String)>,
    prompt: String,
    answer: String,
    status: String,
    message: String,
}

impl Desk {
    fn of(cell: &CellResult) -> Self {
        assert_eq!(cell.status, "ok", "{cell:?}");
        let id = |widget: &Value| widget["id"].as_str().unwrap().to_owned();
        let buttons = cell.widgets("ButtonModel");
        // The lines of text, in the order in which the desk has them.
        let column = &cell.widgets("VBoxModel")[0]["children"];
        let column: Vec<&str> =
            column.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let [status, message, _, answer, _] = column[column.len() - 5..] else { panic!() };
        let own = |reference: &str| reference.strip_prefix("IPY_MODEL_").unwrap().to_owned();
        Self {
            sliders: cell.widgets("FloatSliderModel").iter().map(id).collect(),
            buttons: buttons
                .iter()
                .map(|button| (button["description"].as_str().unwrap().to_owned(), id(button)))
                .collect(),
            prompt: cell.widget("TextModel"),
            answer: own(answer),
            status: own(status),
            message: own(message),
        }
    }

    fn press(&self, kernel: &mut Kernel, label: &str) {
        let (_, id) = self.buttons.iter().find(|(known, _)| known.starts_with(label)).unwrap();
        kernel.click(id);
    }
}

#[test]
fn the_answer_follows_a_slider_and_its_moves_are_one_state() {
    let mut kernel = shared();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let cell = kernel.run("dam.desk()?");
    let desk = Desk::of(&cell);
    let still = cell.text("shown");
    assert!(still.contains("embeddings") && still.contains("12 + 7 = 19"), "{still}");
    assert!(still.contains("pip install"), "{still}");
    assert_eq!(desk.sliders.len() % 2, 0);
    assert!(desk.sliders.len() >= 6, "{}", desk.sliders.len());

    // All sources' coefficients of `math` to 0, each slider in a few moves.
    for slider in desk.sliders.iter().skip(1).step_by(2) {
        for value in [0.4, 0.3, 0.0] {
            kernel.set_widget(slider, json!({"value": value}));
        }
    }
    // Then the merge knows no arithmetic.
    let is_wrong = |comm: &Value| {
        let html = comm["data"]["state"]["value"].as_str().unwrap_or_default();
        let own = html.split("</tr>").find(|row| row.contains("DAM</td>"));
        comm["comm_id"] == desk.answer.as_str()
            && own.is_some_and(|row| !row.contains("12 + 7 = 19"))
    };
    kernel.comm(is_wrong);
    // A verb sees complete states.
    let history = kernel.run("%history").text("shown");
    let mixes = history.matches("mix ").count();
    assert_eq!(mixes, desk.sliders.len() / 2, "{history}");
    let mean = "dam.coefficients(\"model.norm.weight\")?.to_vec2::<f32>()?[1][0]";
    assert_eq!(kernel.run(mean).text("shown"), "0.0");
    for _ in 0..mixes {
        assert_eq!(kernel.run("%undo").status, "ok");
    }
    kernel.html(&desk.answer, "12 + 7 = 19");
    assert_eq!(kernel.run(mean).text("shown"), "0.5");
    // The desk's own undo and redo.
    desk.press(&mut kernel, "redo");
    kernel.comm(|comm| comm["data"]["state"]["value"] == 0.0);
    desk.press(&mut kernel, "undo");
    kernel.comm(|comm| comm["data"]["state"]["value"] == 0.5);
    desk.press(&mut kernel, "undo");
    kernel.html(&desk.message, "nothing to undo");
    kernel.set_widget(&desk.prompt, json!({"value": "What is 3 plus 4?"}));
    kernel.html(&desk.answer, "3 + 4 = 7");
}

#[test]
fn a_desk_trains_between_cells_and_stops() {
    let mut kernel = shared();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let settings = "DeskSettings { steps: 100_000, tokens: 8, ..Default::default() }";
    let desk = Desk::of(&kernel.run(&format!("dam.desk_with(&{settings})?")));
    desk.press(&mut kernel, "step");
    kernel.html(&desk.status, "step 1<");
    desk.press(&mut kernel, "train");
    kernel.html(&desk.status, "left");
    // A cell sees a session that rests.
    let code = "let a = dam.steps(); std::thread::sleep(std::time::Duration::from_secs(1));\n\
                (dam.steps() - a, a > 1)";
    assert_eq!(kernel.run(code).text("shown"), "(0, true)");
    // A slider can be moved during training, which goes on.
    kernel.set_widget(&desk.sliders[0], json!({"value": 0.75}));
    kernel.html(&desk.status, "left");
    desk.press(&mut kernel, "stop");
    kernel.html(&desk.message, "stopped");
    let steps: usize = kernel.run("dam.steps()").text("shown").parse().unwrap();
    assert!(steps < 100_000);
    let history = kernel.run("%history").text("shown");
    let trained: usize = history
        .lines()
        .filter_map(|line| {
            line.split("train ").nth(1)?.split_whitespace().next()?.parse::<usize>().ok()
        })
        .sum();
    assert_eq!(trained, steps, "{history}");
    // Jupyter's stop, and a cell that trains under the desk's.
    desk.press(&mut kernel, "train");
    kernel.html(&desk.status, "left");
    kernel.interrupt();
    kernel.html(&desk.message, "stopped");
    let mut pressed = false;
    let cell = kernel.run_while("dam.train(1_000_000)?", |kernel, cell| {
        if cell.updates.len() == 2 && !std::mem::replace(&mut pressed, true) {
            desk.press(kernel, "stop");
        }
    });
    assert!(cell.text("shown").contains("stopped after step"), "{cell:?}");
}

#[test]
fn a_closed_desk_leaves_a_picture_and_a_merge_has_one_desk() {
    let mut kernel = shared();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let first = Desk::of(&kernel.run("let desk = dam.desk()?; desk"));
    kernel.send("let second = dam.desk()?;");
    let slider = first.sliders[0].as_str();
    kernel.comm(|comm| comm["type"] == "comm_close" && comm["comm_id"] == slider);
    assert_eq!(kernel.reply()["status"], "ok");
    kernel.send("desk.close(); second.close();");
    let picture = kernel.update();
    assert!(picture["data"]["text/html"].as_str().unwrap().contains("mean coefficients"));
    assert!(picture["data"]["application/vnd.jupyter.widget-view+json"].is_null());
    assert_eq!(kernel.reply()["status"], "ok");
    // A scheme whose coefficients cannot be set says so.
    let code = "let other = load([\"builtin:japanese\", \"builtin:math\"])?.wrap(Softmax)?;\n\
                other.desk()?";
    let desk = Desk::of(&kernel.run(code));
    kernel.set_widget(&desk.sliders[0], json!({"value": 0.9}));
    kernel.html(&desk.message, "error");
    assert_eq!(kernel.run("other.steps()").text("shown"), "0");
}
