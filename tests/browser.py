"""A Chromium without a screen, where there is one: asks a page in a window of a given width for an answer."""

import html
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

QT = Path(__file__).parent / "browser_of_qt.py"
COMMAND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HAS_QT = find_spec("PySide6") is not None and find_spec("PySide6.QtWebEngineCore") is not None
needs_browser = pytest.mark.skipif(
    not (COMMAND or HAS_QT), reason="there is no Chromium: neither chromium on the PATH nor PySide6 with QtWebEngine"
)
OUTER = """<!doctype html><body style="margin:0"><iframe src="page.html" width="WIDTH" height="900" style="border:0">
</iframe><script>
addEventListener("message", (event) => { document.documentElement.dataset.answer = event.data; });
</script>"""
# Runs after the page's own script. `until` waits; `saved` gets what a button would have saved.
INNER = """<script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const saved = [];
URL.createObjectURL = (blob) => { saved.push(blob); return "#"; };
HTMLAnchorElement.prototype.click = () => {};
addEventListener("load", async () => {
  const errors = [];
  addEventListener("error", (event) => errors.push(event.message));
  await wait(100);
  let answer;
  try { answer = await (async () => { SCRIPT })(); } catch (error) { errors.push(String(error.stack)); }
  parent.postMessage(JSON.stringify({ answer, errors }), "*");
});
</script>"""


def ask(page, width, script, folder):
    """What an asynchronous script returns within the page, in a window of so many pixels; its errors fail the test.

    page: HTML; folder: for files.
    """
    (folder / "page.html").write_text(page + INNER.replace("SCRIPT", script))
    outer = folder / "outer.html"
    outer.write_text(OUTER.replace("WIDTH", str(width)))
    if COMMAND:
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
        size = ["--window-size=1400,1000", "--virtual-time-budget=10000", "--dump-dom"]
        command = [COMMAND, *options, *size, outer]
    else:
        command = [sys.executable, QT, outer]
    for _ in range(3):  # on a busy machine Chromium's time may run out before the page answers
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found = re.search(r'data-answer="([^"]*)"', done.stdout)
        if found:
            break
    else:
        raise AssertionError(f"{done.stdout[-500:]}\n{done.stderr[-2000:]}")
    told = json.loads(html.unescape(found[1]))
    assert told["errors"] == []
    return told["answer"]
