"""Loads a page in QtWebEngine and prints its first tag once the page has left an answer there; see browser.py."""

import os
import sys
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = "--no-sandbox --disable-gpu"

from PySide6.QtCore import QTimer, QUrl
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication

app = QApplication(sys.argv[:1])
view = QWebEngineView()
view.resize(1400, 1000)


def told(tag):
    if "data-answer" in (tag or ""):
        print(tag)
        app.quit()


timer = QTimer()
timer.timeout.connect(lambda: view.page().runJavaScript("document.documentElement.cloneNode(false).outerHTML", 0, told))
timer.start(100)
QTimer.singleShot(50_000, app.quit)
view.load(QUrl.fromLocalFile(str(Path(sys.argv[1]).resolve())))
view.show()
app.exec()
