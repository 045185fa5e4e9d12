"""Tests the kernel in JupyterLab in a real browser: notebook 1, opened as an untrusted notebook, is displayed correctly
and runs to the end; a training cell is interrupted and the next one runs, and the training display is updated
during training; Tab, Shift-Tab and the contextual help work; large output arrives complete, a cell that reads input
shows an input box, and a panel shows the current variables. A desk follows its sliders, trains, is there again after its page
was closed, and leaves a picture; a second notebook has controls of its own. Then notebook 1 runs again through a gateway.

    lab.py DAM NOTEBOOKS SCREENSHOTS        needs an environment with requirements.txt, and Chromium
"""

import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from playwright.sync_api import TimeoutError, sync_playwright

DAM, NOTEBOOKS, SCREENSHOTS = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
FIRST = "01_first_merge.ipynb"
TIMEOUT_MS = 60_000
PICTURE = '<img src="data:image/svg+xml;base64,'
STATUS = "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"

CELLS = """() => [...window.jupyterapp.shell.currentWidget?.content?.model?.cells ?? []].filter(c => c.type == 'code')
    .map(c => `${c.executionCount} ${c.executionState}`)"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(directory, *arguments, path="/api"):
    """A Jupyter server in `directory`; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", *arguments, f"--port={port}", "--ip=127.0.0.1"]
    with open(SCREENSHOTS / f"{arguments[0]}-{port}.log", "w") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(address + path).read()
                    break
                time.sleep(0.2)
            else:
                raise SystemExit(f"{arguments[0]} does not start: see {log.name}")
            yield address
        finally:
            process.terminate()
            process.wait(30)


def lab(directory, *arguments):
    quiet = ["--no-browser", "--allow-root", "--IdentityProvider.token=", "--expose-app-in-browser", "--LabApp.news_url="]
    return server(directory, "jupyterlab", *quiet, *arguments)


MERGE = 'let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;'
READ = 'let mut line = String::new(); std::io::stdin().read_line(&mut line)?; line.trim().to_owned()'
LINES = 200_000
NOTEBOOKS_OF_CELLS = {
    "interrupted": [MERGE, "dam.train(1_000_000)?", "dam.steps()"],
    "keys": [MERGE, "dam.", "dam.train"],
    "text": [f'for i in 0..{LINES} {{ println!("{{i}}"); }} 7', READ],
    "variables": [":vars", 'let twelve = 12;'],
    "desk": [MERGE, "let desk = dam.desk_with(&DeskSettings { steps: 500, ..Default::default() })?; desk", "dam.steps()", "desk.close()"],
    "slider": ['Slider { label: "x".into(), ..Default::default() }.on_change(|x| format!("twice: {:.2}", 2.0 * x))?'],
}


def notebook(code):
    """A notebook with these code cells."""
    cells = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
             for i, source in enumerate(code)]
    kernel = {"name": "dam", "display_name": "DAM (Rust)", "language": "rust"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def open_notebook(page, address, name):
    page.goto(f"{address}/lab/tree/{name}?reset", wait_until="commit")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=TIMEOUT_MS)
    # The kernel is ready when it is idle.
    wait(page, "the kernel is idle", lambda: page.evaluate(STATUS) == "idle")


def command(page, name):
    page.evaluate("name => void window.jupyterapp.commands.execute(name)", name)


def prompts(page):
    """The prompts of all code cells of the notebook."""
    return page.eval_on_selector_all(".jp-CodeCell .jp-InputPrompt", "all => all.map(e => e.textContent.trim())")


def wait(page, what, condition, seconds=60):
    for _ in range(seconds * 5):
        if condition():
            return
        time.sleep(0.2)
    page.screenshot(path=SCREENSHOTS / "failed.png", full_page=True)
    print(f"the kernel: {page.evaluate(STATUS)}; code cells: {page.evaluate(CELLS)}", flush=True)
    raise SystemExit(f"{what}: not within {seconds} s; see {SCREENSHOTS / 'failed.png'}")


def run_all(page, address, shot):
    begin = time.time()
    open_notebook(page, address, FIRST)
    command(page, "notebook:run-all-cells")
    cells = json.loads((NOTEBOOKS / FIRST).read_text())["cells"]
    count = sum(cell["cell_type"] == "code" for cell in cells)
    # Cells outside the viewport are not rendered, so the page's model is queried.
    ran = "() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type == 'code' && c.executionCount > 0).length"
    wait(page, "all cells run", lambda: page.evaluate(ran) == count)
    wait(page, "the kernel is idle", lambda: page.evaluate(STATUS) == "idle")
    outputs = page.evaluate("() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type == 'code').flatMap(c => c.outputs.toJSON())")
    errors = [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not errors, errors
    assert any(PICTURE in str(output.get("data", {}).get("text/html")) for output in outputs), "no picture"
    page.screenshot(path=SCREENSHOTS / f"{shot}.png")
    print(f"{shot}: notebook 1 ran in {time.time() - begin:.1f} s after its page was requested", flush=True)


def interrupt_and_continue(page, address):
    open_notebook(page, address, "interrupted.ipynb")
    command(page, "notebook:run-cell-and-select-next")
    wait(page, "the merge is wrapped", lambda: "[1]:" in prompts(page)[0])
    command(page, "notebook:run-cell-and-select-next")
    area = page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea").first
    wait(page, "a display during training", lambda: "<svg" in area.inner_html())
    one = area.inner_html()
    wait(page, "the display is updated during training", lambda: area.inner_html() != one)
    assert "[*]:" in prompts(page)[1], "it trains"
    page.screenshot(path=SCREENSHOTS / "training.png")
    command(page, "notebook:interrupt-kernel")
    wait(page, "training stops", lambda: "[2]:" in prompts(page)[1])
    assert "stopped after step" in area.inner_text(), area.inner_text()
    command(page, "notebook:run-cell")
    wait(page, "the next cell", lambda: "[3]:" in prompts(page)[2])
    steps = page.locator(".jp-CodeCell").nth(2).locator(".jp-OutputArea-output").first.inner_text().strip()
    assert 0 < int(steps) < 1_000_000, steps
    page.screenshot(path=SCREENSHOTS / "stopped.png")
    print(f"stopped after {steps} steps, and continued", flush=True)


def untrusted(page, address):
    """Committed outputs in an untrusted notebook, as in every notebook that was not run on this machine."""
    page.goto(f"{address}/lab/tree/{FIRST}?reset", wait_until="commit")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=TIMEOUT_MS)
    trusted = "() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type == 'code').map(c => c.trusted)"
    wait(page, "the notebook is there", lambda: len(page.evaluate(trusted)) > 3)
    assert not any(page.evaluate(trusted)), "the notebook is trusted"
    seen, text = set(), ""
    drawn = "all => all.filter(e => e.complete && e.naturalWidth > 100).map(e => e.src)"
    page.locator(".jp-Notebook").first.click(position={"x": 4, "y": 4})
    cells = page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.cells.length")
    for i in range(cells):
        # Cells outside the viewport are not rendered.
        page.evaluate("async i => { await window.jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start') }", i)
        time.sleep(0.3)
        seen.update(page.eval_on_selector_all(".jp-OutputArea-output img", drawn))
        text += "".join(page.eval_on_selector_all(".jp-OutputArea-output", "all => all.map(e => e.innerText + '\\n')"))
    page.screenshot(path=SCREENSHOTS / "untrusted.png")
    committed = set(re.findall(r'data:image/svg\+xml;base64,[^"\\]*', (NOTEBOOKS / FIRST).read_text()))
    assert seen == committed and len(seen) > 3, f"{len(seen)} of {len(committed)} images"
    assert "mean coefficient, layer by layer" not in text, "text of an image appears outside it"
    print(f"untrusted: {len(seen)} images are displayed", flush=True)


def editor(page, i):
    """Puts the cursor at the end of code cell i."""
    page.locator(".jp-CodeCell").nth(i).locator(".cm-content").click()
    page.keyboard.press("Control+End")


def keys(page, address):
    open_notebook(page, address, "keys.ipynb")
    command(page, "notebook:run-cell")
    wait(page, "the merge is wrapped", lambda: "[1]:" in prompts(page)[0])
    editor(page, 1)
    # A user takes a moment to type. JupyterLab drops a completion list that arrives after more than one second, as on a busy
    # machine.
    page.wait_for_timeout(2000)
    items = page.locator(".jp-Completer .jp-Completer-item")
    for _ in range(3):
        page.keyboard.press("Tab")
        with contextlib.suppress(TimeoutError):
            items.first.wait_for(timeout=5000)
            break
    wait(page, "Tab shows a list", lambda: items.count() > 5)
    values = page.eval_on_selector_all(".jp-Completer .jp-Completer-item", "all => all.map(e => e.dataset.value)")
    words = [value.split("(")[0] for value in values]
    page.screenshot(path=SCREENSHOTS / "tab.png")
    assert "train" in words[:10] and not {"into", "try_into", "session", "rest"} & set(words), words
    page.keyboard.press("Escape")
    editor(page, 2)
    page.keyboard.press("Shift+Tab")
    tooltip = page.locator(".jp-Tooltip")
    wait(page, "Shift-Tab shows a tip", lambda: tooltip.count() and "optimiser steps" in tooltip.first.inner_text())
    page.screenshot(path=SCREENSHOTS / "shift-tab.png")
    page.keyboard.press("Escape")
    command(page, "inspector:open")
    help = page.locator(".jp-Inspector")
    editor(page, 2)
    page.keyboard.press("ArrowLeft")
    wait(page, "contextual help", lambda: help.count() and "optimiser steps" in help.first.inner_text())
    page.screenshot(path=SCREENSHOTS / "help.png")
    print(f"Tab: {', '.join(words[:8])}...; Shift-Tab and contextual help too", flush=True)


OUTPUTS = "i => window.jupyterapp.shell.currentWidget.content.model.cells.get(i).outputs.toJSON()"


def text(page, address):
    open_notebook(page, address, "text.ipynb")
    begin = time.time()
    command(page, "notebook:run-cell-and-select-next")
    wait(page, "all is printed", lambda: any(o["output_type"] == "execute_result" for o in page.evaluate(OUTPUTS, 0)), 120)
    outputs = page.evaluate(OUTPUTS, 0)
    printed = "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream")
    assert printed == "".join(f"{i}\n" for i in range(LINES)), f"{len(printed)} characters: {printed[-200:]}"
    assert outputs[-1]["data"]["text/plain"] == "7", outputs[-1]
    print(f"{LINES} lines in {time.time() - begin:.1f} s", flush=True)
    command(page, "notebook:run-cell")
    box = page.locator(".jp-Stdin-input")
    wait(page, "an input box", lambda: box.count())
    box.first.fill("twelve")
    box.first.press("Enter")
    wait(page, "what was typed", lambda: any("twelve" in str(o.get("data")) for o in page.evaluate(OUTPUTS, 1)))


def variables(page, address):
    """The table of variables in a panel of its own, which is updated after each cell."""
    open_notebook(page, address, "variables.ipynb")
    command(page, "notebook:run-cell-and-select-next")
    wait(page, "the table of variables", lambda: page.evaluate(OUTPUTS, 0))
    page.locator(".jp-CodeCell").nth(0).locator(".jp-InputPrompt").click()
    command(page, "notebook:create-output-view")
    panel = page.locator(".jp-LinkedOutputView")
    wait(page, "a panel with the table", lambda: panel.count() and "variable" in panel.first.inner_text())
    page.locator(".jp-CodeCell").nth(1).locator(".jp-InputPrompt").click()
    command(page, "notebook:run-cell")
    wait(page, "the panel has the new variable", lambda: "twelve" in panel.first.inner_text())
    page.screenshot(path=SCREENSHOTS / "variables.png")
    print("the panel of variables is updated after each cell", flush=True)


def handles(page):
    return page.locator(".jp-OutputArea .noUi-handle")


def shown(page, i):
    """The text of the output of code cell i."""
    return page.locator(".jp-CodeCell").nth(i).locator(".jp-OutputArea").first.inner_text()


def drag(page, handle, share):
    """Moves a slider with the mouse by a share of its length, in small steps, as a hand does."""
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    length = handle.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()["width"]
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + share * length, y, steps=25)
    page.mouse.up()


def positions(page):
    return page.eval_on_selector_all(".jp-OutputArea .widget-readout", "all => all.map(e => Number(e.textContent))")


def click(page, label):
    page.locator(".jp-OutputArea button.jupyter-button", has_text=re.compile(f"^{label}$")).click()


def desk(page, address):
    open_notebook(page, address, "desk.ipynb")
    command(page, "notebook:run-cell-and-select-next")
    wait(page, "the merge is wrapped", lambda: "[1]:" in prompts(page)[0])
    command(page, "notebook:run-cell-and-select-next")
    wait(page, "sliders", lambda: handles(page).count() >= 6 and handles(page).count() % 2 == 0)
    wait(page, "an answer", lambda: "probability of DAM" in shown(page, 1))
    assert "pip install" not in shown(page, 1), "the picture that replaces a desk is shown beside it"
    page.screenshot(path=SCREENSHOTS / "desk.png")
    # The keyboard, then the mouse.
    answer = page.locator(".jp-CodeCell").nth(1).locator("table").first
    begin, before = positions(page), answer.inner_text()
    handles(page).nth(1).focus()
    page.keyboard.press("ArrowRight")
    wait(page, "the probabilities follow a key", lambda: answer.inner_text() != before)
    wait(page, "the slider has moved", lambda: abs(positions(page)[1] - begin[1] - 0.01) < 1e-3)
    assert "12 + 7 = 19" in answer.inner_text().split("\n")[1]
    moved = time.time()
    # Without arithmetic: from 0.5 to 0, of a length of 2.
    for i in range(1, handles(page).count(), 2):
        drag(page, handles(page).nth(i), -0.25)
    wait(page, "the answer follows the sliders", lambda: "12 + 7 = 19" not in answer.inner_text().split("\n")[1])
    print(f"the answer followed {handles(page).count() // 2} sliders {time.time() - moved:.1f} s after the first moved", flush=True)
    assert max(abs(x) for x in positions(page)[1::2]) < 0.05, positions(page)
    assert positions(page)[::2] == begin[::2], "other sliders have moved"
    page.screenshot(path=SCREENSHOTS / "desk-moved.png")
    page.wait_for_timeout(1500)
    # One state for each slider, and one for the key; on a busy machine a slider may rest on its way.
    undone = 0
    while positions(page) != begin and undone < 50:
        click(page, "undo")
        page.wait_for_timeout(500)
        undone += 1
    wait(page, "undo moves the sliders back", lambda: positions(page) == begin)
    click(page, "step")
    wait(page, "a step", lambda: "step 1" in shown(page, 1))
    click(page, "train 500")
    wait(page, "training", lambda: "left" in shown(page, 1) and page.locator(".jp-OutputArea svg").count())
    page.screenshot(path=SCREENSHOTS / "desk-training.png")
    click(page, "stop")
    wait(page, "training stops", lambda: "stopped" in shown(page, 1) and "left" not in shown(page, 1))
    steps = int(re.search(r"step (\d+)", shown(page, 1)).group(1))
    assert 1 < steps < 501, steps
    page.locator(".jp-CodeCell").nth(2).locator(".jp-InputPrompt").click()
    command(page, "notebook:run-cell")
    result = page.locator(".jp-CodeCell").nth(2).locator(".jp-OutputArea-output")
    wait(page, "a cell has the same session", lambda: result.count() and result.first.inner_text().strip() == str(steps))
    # The page is closed and opened again.
    wait(page, "the desk rests", lambda: "loss" in shown(page, 1))
    saved = positions(page)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    open_notebook(page, address, "desk.ipynb")
    wait(page, "the desk is there again", lambda: handles(page).count() == len(saved) and positions(page) == saved)
    before = answer.inner_text()
    drag(page, handles(page).nth(1), 0.2)
    wait(page, "the answer follows a slider again", lambda: answer.inner_text() != before)
    two_notebooks(page, address)
    page.locator(".jp-CodeCell").nth(3).locator(".jp-InputPrompt").click()
    command(page, "notebook:run-cell")
    wait(page, "the picture of a closed desk", lambda: not handles(page).count() and "mean coefficients" in shown(page, 1))
    page.screenshot(path=SCREENSHOTS / "desk-closed.png")
    print(f"desk: {len(saved)} sliders, {undone} states undone, stopped after {steps} steps, there again after the page was closed", flush=True)


def two_notebooks(page, address):
    """A second notebook in another page, while the first has a desk."""
    other = page.context.browser.new_page(viewport=page.viewport_size)
    open_notebook(other, address, "slider.ipynb")
    command(other, "notebook:run-cell")
    wait(other, "a slider", lambda: handles(other).count() == 1)
    before = positions(page)
    handles(other).first.focus()
    other.keyboard.press("PageUp")
    wait(other, "the closure has run", lambda: "twice: " in shown(other, 0))
    twice = float(re.search("twice: ([0-9.]+)", shown(other, 0)).group(1))
    assert twice > 0 and abs(twice - 2 * positions(other)[0]) < 0.011, (twice, positions(other))
    assert positions(page) == before, "the other notebook's slider has moved"
    other.screenshot(path=SCREENSHOTS / "slider.png")
    other.close()


def main():
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    subprocess.run([DAM, "jupyter", "install", "--prefix", sys.prefix], check=True)
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        shutil.copy(NOTEBOOKS / FIRST, directory)
        for name, code in NOTEBOOKS_OF_CELLS.items():
            (pathlib.Path(directory) / f"{name}.ipynb").write_text(json.dumps(notebook(code)))
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page(viewport={"width": 1100, "height": 1400})
        with lab(directory) as address:
            untrusted(page, address)
            run_all(page, address, "first")
            interrupt_and_continue(page, address)
            keys(page, address)
            text(page, address)
            variables(page, address)
            desk(page, address)
        with server(directory, "kernel_gateway") as gateway, lab(directory, f"--gateway-url={gateway}") as address:
            run_all(page, address, "gateway")
        browser.close()


main()
