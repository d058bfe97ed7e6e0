"""The page in a real browser: what is typed becomes a video, and whatever is wrong a sentence.

Tests of vidgen/web/page.py, vidgen/web/server.py, vidgen/web/views.py, vidgen/web/models.py,
vidgen/cli/web_command.py, vidgen/cli/generate_command.py too.
"""

import gc
import shlex
import sys
import threading

import browser as chromium
import jax
import made_videos
import pytest
import tiny_cascade

from vidgen.cli import errors, main, web_command
from vidgen.data.video.encode import write_video
from vidgen.data.video.footage import open_footage
from vidgen.web import server

WAIT = 120_000  # milliseconds: a busy machine compiles for long
PLAYS = "video => video.readyState >= 3 && video.currentTime > 0.1"

_elsewhere = []  # addresses that this process connected to


def _audit(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = str(arguments[1][0])
        if not host.startswith("127.") and host != "::1":
            _elsewhere.append(host)
    elif event == "socket.getaddrinfo":
        host = arguments[0]
        if host not in ("127.0.0.1", "localhost", "::1", None):
            _elsewhere.append(host)


sys.addaudithook(_audit)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """Two tiny stages."""
    folder = tmp_path_factory.mktemp("cascade")
    tiny_cascade.write(folder, stages=("base", "tsr1"))
    return folder


@pytest.fixture(scope="module")
def served(cascade):
    """The page's address; the files that it keeps are in `folders`."""
    before = len(_elsewhere)

    def parse(words):
        return main._parsed(["generate", *words])

    settings = server.Settings(model=str(cascade), port=0, upload_mb=1)
    explain = lambda error: errors.sentence(error)[0]  # noqa: E731
    with server.serving(settings, web_command.builder(parse), explain) as address:
        yield address
    assert _elsewhere[before:] == []
    assert not [t for t in threading.enumerate() if t.name == "generations"]


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as started:
        yield started


@pytest.fixture
def page(browser, served):
    """A page that asks no one else, and complains of nothing."""
    context = browser.new_context(viewport={"width": 1180, "height": 860})
    context.set_default_timeout(WAIT)
    page = context.new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(served)
    page.wait_for_selector("#vg-generate")
    yield page
    context.close()
    assert not [url for url in asked if not url.startswith((served, "data:", "blob:"))]
    assert wrong == []


def choose(page, where, option):
    page.locator(f"{where} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def download(page):
    """The file, and the words of the command that makes it again."""
    page.wait_for_selector("#vg-video video")
    page.wait_for_function(f"({PLAYS})(document.querySelector('#vg-video video'))")
    with page.expect_download() as download:
        page.click("#vg-download")
    line = page.locator("#vg-command textarea").input_value()
    return download.value.path(), shlex.split(line)


def assert_made_again(vidgen, words, path):
    assert words[:2] == ["vidgen", "generate"] and words[-1] == "--output=clip.mp4"
    status, _, err = vidgen(*words[1:])
    assert status == 0, err
    with open("clip.mp4", "rb") as again:
        assert again.read() == path.read_bytes()


def live_bytes():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def test_a_prompt_becomes_a_video_that_plays(page, vidgen, served):
    page.fill("#vg-prompt textarea", " a tiger\nmoving `left` ")
    page.fill("#vg-clip-guidance input, #vg-clip-guidance textarea", "1.5")
    page.fill("#vg-clip-steps input, #vg-clip-steps textarea", "2,base=3")
    page.fill("#vg-clip-seed input", "7")
    page.click("#vg-generate")
    page.wait_for_selector("#vg-picture img[src^='data:image/webp']")
    path, words = download(page)
    assert words[2] == "a tiger moving `left`"
    assert {"--guidance=1.5", "--steps=2,base=3", "--seed=7"} < set(words)
    assert_made_again(vidgen, words, path)
    assert open_footage(str(path)).seconds == pytest.approx(1.0)
    assert page.locator("#vg-progress").inner_text().startswith("Done in ")


def test_an_earlier_stage_and_another_seed(page):
    choose(page, "#vg-until", "base")
    page.get_by_role("button", name="Another seed").first.click()
    page.click("#vg-generate")
    _, words = download(page)
    assert "--until=base" in words
    (seed,) = (int(word.partition("=")[2]) for word in words if word.startswith("--seed="))
    assert 0 < seed < 2**32


def test_a_story(page, vidgen):
    page.get_by_role("tab", name="Story").click()
    page.click("#vg-more")
    page.fill("#vg-scene-3 textarea", "a tiger shrinking on a red background")
    page.click("#vg-fewer")
    page.fill("#vg-scene-1 textarea", "a panda growing on a blue background")
    page.fill("#vg-story-steps input, #vg-story-steps textarea", "1")
    page.click("#vg-tell")
    path, words = download(page)
    assert words[2] == (
        "--story=a panda growing on a blue background. then a tiger growing on a green background"
    )
    assert_made_again(vidgen, words, path)


def test_an_uploaded_clip_is_made_larger(page, vidgen, tmp_path):
    write_video(tmp_path / "my clip.mp4", made_videos.moving_square(20, 24, 40), fps=8)
    page.get_by_role("tab", name="Upscale").click()
    page.set_input_files("#vg-upload input[type=file]", str(tmp_path / "my clip.mp4"))
    page.wait_for_selector("#vg-upload .file-preview")
    page.click("#vg-upscale")
    path, words = download(page)
    assert "--init=my clip.mp4" in words
    assert_made_again(vidgen, words, path)


def test_a_cancel_ends_it_and_gives_the_memory_back(page, served):
    before = live_bytes()
    page.fill("#vg-clip-steps input, #vg-clip-steps textarea", "5000")
    page.click("#vg-generate")
    page.wait_for_function("document.querySelector('#vg-progress').innerText.includes('step ')")
    assert live_bytes() > before
    assert page.locator("#vg-generate").is_disabled()
    page.click("#vg-stop")
    page.wait_for_function("document.querySelector('#vg-progress').innerText.includes('Stopped')")
    assert live_bytes() <= before
    assert page.locator("#vg-generate").is_enabled()
    assert not page.locator("#vg-video").is_visible()
