//! Controls with closures: sliders, lists, buttons and text fields.

use jupyter_protocol::messaging::CommInfoRequest;
use serde_json::json;

use crate::{MERGE, own, shared};

#[test]
fn a_slider_runs_its_closure_without_compiling() {
    let mut kernel = shared();
    let code = "let slider = Slider { label: \"x\".into(), value: 0.25, ..Default::default() }\n\
                .on_change(|x| format!(\"twice: {}\", 2.0 * x))?;\nslider";
    let cell = kernel.run(code);
    assert_eq!(cell.status, "ok", "{cell:?}");
    let (slider, output) = (cell.widget("FloatSliderModel"), cell.widget("HTMLModel"));
    let state = &cell.widgets("FloatSliderModel")[0];
    assert_eq!((&state["value"], &state["max"]), (&json!(0.25), &json!(1.0)));
    // The view, and what replaces it where there are no widgets.
    let shown = &cell.outputs[0]["data"];
    let view = &shown["application/vnd.jupyter.widget-view+json"];
    assert_eq!(view["model_id"], cell.widget("VBoxModel"));
    for kind in ["text/plain", "text/html"] {
        let still = shown[kind].as_str().unwrap();
        assert!(still.contains("0.25") && still.contains("pip install"), "{still}");
    }

    kernel.set_widget(&slider, json!({"value": 0.75}));
    assert!(kernel.html(&output, "twice").contains("twice: 1.5"));
    assert_eq!(kernel.run("slider.value()").text("shown"), "0.75");
    // From Rust too.
    let cell = kernel.run("slider.set(0.5); slider.value()");
    assert_eq!(cell.text("shown"), "0.5");
    assert_eq!(cell.comms[0]["data"]["state"], json!({"value": 0.5}));
    // A value outside of the slider does not arrive.
    kernel.set_widget(&slider, json!({"value": 7.0}));
    kernel.set_widget(&slider, json!({"value": "wide"}));
    assert_eq!(kernel.run("slider.value()").text("shown"), "0.5");
    let cell = kernel.run("slider.close()");
    assert!(cell.comms.iter().any(|comm| comm["type"] == "comm_close"), "{cell:?}");
}

#[test]
fn a_closure_shares_the_session_and_shows_errors() {
    let mut kernel = shared();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let code = "let own = dam.clone();\nText::default().on_change(move |name| \
                own.mix(\"*\", &[(name, Amount::To(0.75))]))";
    let cell = kernel.run(code);
    assert_eq!(cell.status, "ok", "{cell:?}");
    let (text, output) = (cell.widget("TextModel"), cell.widget("HTMLModel"));
    kernel.set_widget(&text, json!({"value": "math"}));
    assert!(kernel.html(&output, "<table>").contains("0.75"));
    let mean = "dam.coefficients(\"model.norm.weight\")?.to_vec2::<f32>()?[1][0]";
    assert_eq!(kernel.run(mean).text("shown"), "0.75");
    kernel.set_widget(&text, json!({"value": "sql"}));
    let error = kernel.html(&output, "error");
    assert!(error.contains("`sql`") && error.contains("hint"), "{error}");
}

#[test]
fn a_panic_in_a_closure_is_shown_in_the_control_and_does_not_end_it() {
    let mut kernel = shared();
    let code = "let mut count = 0;\nButton { label: \"go\".into() }.on_click(move || {\n\
                count += 1; assert!(count > 1, \"the first click\"); count })";
    let cell = kernel.run(code);
    assert_eq!(cell.status, "ok", "{cell:?}");
    let (button, output) = (cell.widget("ButtonModel"), cell.widget("HTMLModel"));
    kernel.click(&button);
    let panic = kernel.html(&output, "panicked");
    assert!(panic.contains("the first click") && panic.contains("src/lib.rs"), "{panic}");
    kernel.click(&button);
    assert!(kernel.html(&output, "<pre").contains(">2<"));
}

#[test]
fn closures_wait_for_the_running_cell_and_do_not_pile_up() {
    let mut kernel = shared();
    let code = "use std::sync::{Arc, atomic::{AtomicUsize, Ordering::SeqCst}};\n\
                let runs = Arc::new(AtomicUsize::new(0));\nlet own = Arc::clone(&runs);\n\
                Slider::default().on_change(move |x| { own.fetch_add(1, SeqCst);\n\
                std::thread::sleep(std::time::Duration::from_millis(200)); format!(\"at {x}\") })";
    let cell = kernel.run(code);
    assert_eq!(cell.status, "ok", "{cell:?}");
    let (slider, output) = (cell.widget("FloatSliderModel"), cell.widget("HTMLModel"));
    let mut moved = false;
    let code = "println!(\"on\"); std::thread::sleep(std::time::Duration::from_secs(1)); \
                runs.load(SeqCst)";
    let cell = kernel.run_while(code, |kernel, cell| {
        if cell.text("stdout").contains("on") && !std::mem::replace(&mut moved, true) {
            kernel.set_widget(&slider, json!({"value": 0.1}));
        }
    });
    assert_eq!(cell.text("shown"), "0", "the closure has waited: {cell:?}");
    for i in 2..=40 {
        kernel.set_widget(&slider, json!({"value": f64::from(i) / 100.0}));
    }
    kernel.html(&output, "at 0.4<");
    let runs: usize = kernel.run("runs.load(SeqCst)").text("shown").parse().unwrap();
    assert!((2..10).contains(&runs), "{runs} runs for 40 moves");
}

#[test]
fn an_interrupt_stops_what_a_closure_is_doing() {
    let mut kernel = shared();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let code = "let own = dam.clone();\nButton::default().on_click(move || {\n\
                println!(\"on\"); own.train(1_000_000) })";
    let cell = kernel.run(code);
    let (button, output) = (cell.widget("ButtonModel"), cell.widget("HTMLModel"));
    kernel.click(&button);
    std::thread::sleep(std::time::Duration::from_secs(2));
    kernel.interrupt();
    kernel.html(&output, "stopped after step");
    assert_eq!(kernel.run("dam.train(2)?.steps").text("shown"), "2");
}

#[test]
fn what_a_front_end_sends_is_not_trusted() {
    let mut kernel = shared();
    let cell = kernel.run("Button::default().on_click(|| \"clicked\")");
    let (button, output) = (cell.widget("ButtonModel"), cell.widget("HTMLModel"));
    kernel.send_comm("unknown", json!({"method": "update", "state": {"value": 1}}));
    for data in [
        json!({}),
        json!({"method": ["update"]}),
        json!({"method": "update", "state": "none"}),
        json!({"method": "update", "state": {"_model_name": "HTMLModel", "description": 7}}),
        json!({"method": "custom"}),
        json!({"method": "custom", "content": {"event": "x".repeat(1 << 20)}}),
        json!({"method": "custom", "content": {"event": {"event": "click"}}}),
    ] {
        kernel.send_comm(&button, data);
    }
    kernel.close_comm("unknown");
    kernel.open_comm("mine", "jupyter.widget");
    kernel.comm(|comm| comm["type"] == "comm_close" && comm["comm_id"] == "mine");
    kernel.click(&button);
    assert!(kernel.html(&output, "clicked").contains("clicked"));
    assert_eq!(kernel.run("1 + 1").text("shown"), "2");
}

#[test]
fn a_page_that_is_opened_again_gets_the_widgets_and_they_end_with_their_process() {
    let mut kernel = shared();
    let cell = kernel.run("Slider::default().on_change(|x| x)");
    let slider = cell.widget("FloatSliderModel");
    kernel.set_widget(&slider, json!({"value": 0.5}));
    let info = kernel.request(CommInfoRequest { target_name: Some("jupyter.widget".into()) });
    assert_eq!(info["comms"][&slider], json!({"target_name": "jupyter.widget"}));
    kernel.open_comm("page", "jupyter.widget.control");
    kernel.send_comm("page", json!({"method": "request_states"}));
    let reply = kernel.comm(|comm| comm["comm_id"] == "page");
    let state = &reply["data"]["states"][&slider];
    assert_eq!(
        (&state["model_name"], &state["state"]["value"]),
        (&json!("FloatSliderModel"), &json!(0.5))
    );
    // Without the process, a closure would not run.
    let cell = kernel.run(":clear");
    let closed =
        |comm: &serde_json::Value| comm["type"] == "comm_close" && comm["comm_id"] == slider;
    assert!(cell.comms.iter().any(closed), "{cell:?}");
    let info = kernel.request(CommInfoRequest { target_name: None });
    assert_eq!(info["comms"], json!({}));
}

#[test]
fn controls_of_two_notebooks_are_apart() {
    let (mut one, mut other) = (shared(), own());
    let other = &mut other.0;
    let code = "Button::default().on_click(|| std::process::id())";
    let (first, second) = (one.run(code), other.run(code));
    let button = |cell: &crate::common::jupyter::CellResult| {
        (cell.widget("ButtonModel"), cell.widget("HTMLModel"))
    };
    let ((a, shown_a), (b, shown_b)) = (button(&first), button(&second));
    assert_ne!(a, b);
    one.click(&b);
    other.click(&b);
    let of_other = other.html(&shown_b, "<pre");
    one.click(&a);
    assert_ne!(one.html(&shown_a, "<pre"), of_other);
}
