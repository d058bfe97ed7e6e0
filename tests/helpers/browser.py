"""A real Chromium without a window: the one of the system, or one that playwright fetches."""

import contextlib
import os
import shutil
import subprocess
import sys

from playwright import sync_api

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
# Names of the internet lead nowhere: a page that needs one does not work.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


def _executable(chromium):
    """Where it is."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    if not os.path.exists(chromium.executable_path):
        install = [sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"]
        done = subprocess.run(install, capture_output=True, text=True)
        assert done.returncode == 0, (
            "the tests of the page need a Chromium: apt-get install chromium-headless-shell, or "
            f"another of {', '.join(NAMES)}.\n{done.stderr}"
        )
    return None  # its own


@contextlib.contextmanager
def started():
    """Yields the browser."""
    with sync_api.sync_playwright() as playwright:
        root = os.geteuid() == 0  # as which Chromium has no sandbox
        browser = playwright.chromium.launch(
            executable_path=_executable(playwright.chromium),
            args=[OFFLINE, *(["--no-sandbox"] if root else [])],
        )
        yield browser
        browser.close()
