"""The page in a real browser: what is typed becomes a video, and whatever is wrong a sentence.

Tests of vidgen/web/parts.py, vidgen/web/server.py, vidgen/web/views.py, vidgen/web/models.py,
vidgen/cli/web_command.py, vidgen/cli/generate_command.py too.
"""

import contextlib
import gc
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import browser as chromium
import jax
import made_videos
import places
import pytest
import tiny_cascade

from vidgen.assets import zoo
from vidgen.cli import errors, main, web_command
from vidgen.data.video.encode import write_video
from vidgen.data.video.footage import open_footage
from vidgen.types import STAGES
from vidgen.web import models, server

pytestmark = pytest.mark.usefixtures("kept_programs")

WAIT = 120_000  # milliseconds: a busy machine compiles for long
STEPS = "#vg-clip-steps input, #vg-clip-steps textarea"
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

    given = {"model": str(cascade), "story_model": "phenaki_demo"}
    settings = server.Settings(**given, port=0, upload_mb=1)
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
    with opened(browser, served) as page:
        yield page


@contextlib.contextmanager
def opened(browser, served):
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


def progress(page, words):
    """Waits until the progress says it."""
    page.locator("#vg-progress", has_text=words).wait_for()


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
    page.fill(STEPS, "2,base=3")
    page.fill("#vg-clip-negative textarea", "a frog")
    page.fill("#vg-clip-seed input", "7")
    page.click("#vg-generate")
    page.wait_for_selector("#vg-picture img[src^='data:image/webp']")
    path, words = download(page)
    assert words[2] == "a tiger moving `left`"
    assert {"--guidance=1.5", "--steps=2,base=3", "--negative=a frog", "--seed=7"} < set(words)
    assert_made_again(vidgen, words, path)
    assert open_footage(str(path)).seconds == pytest.approx(1.0)
    assert page.locator("#vg-progress").inner_text().startswith("Done in ")


def test_an_earlier_stage_and_another_seed(page, cascade):
    choose(page, "#vg-model", "phenaki_demo")
    page.locator("#vg-until").wait_for(state="hidden")  # it is one stage
    choose(page, "#vg-model", str(cascade))
    page.locator("#vg-until").wait_for()
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


def test_a_cancel_ends_it_and_gives_the_memory_back(page):
    before = live_bytes()
    page.fill(STEPS, "100000")
    page.click("#vg-generate")
    progress(page, "step ")
    assert live_bytes() > before
    assert page.locator("#vg-generate").is_disabled()
    page.click("#vg-stop")
    progress(page, "Stopped. Nothing was written.")
    assert live_bytes() <= before
    assert page.locator("#vg-generate").is_enabled()
    assert not page.locator("#vg-video").is_visible()
    assert not page.locator("#vg-stop").is_visible()


def test_one_at_a_time_and_a_page_that_closes_ends_its_own(page, browser, served):
    with opened(browser, served) as first:
        first.fill(STEPS, "100000")
        first.click("#vg-generate")
        progress(first, "step ")
        page.click("#vg-generate")
        progress(page, "Waiting for 1 generation before this one")
        page.click("#vg-stop")
        progress(page, "Stopped")
        page.click("#vg-generate")
        progress(page, "Waiting for 1 generation before this one")
    download(page)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken.mp4", b"no video" * 100, "broken.mp4"),
        ("cut.gif", b"GIF89a", "cut.gif"),
    ],
)
def test_a_broken_upload(page, name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    page.get_by_role("tab", name="Upscale").click()
    page.set_input_files("#vg-upload input[type=file]", str(tmp_path / name))
    page.wait_for_selector("#vg-upload .file-preview")
    page.click("#vg-upscale")
    message = page.get_by_role("alert").filter(has_text=words).inner_text()
    assert message.startswith(f"--init: {name}") or message.startswith(f"--init {name}"), message
    assert "/" not in message and "\n" not in message
    assert page.locator("#vg-upscale").is_enabled()


def test_uploads_that_are_too_large_or_of_another_kind(page, served, tmp_path):
    page.get_by_role("tab", name="Upscale").click()
    page.click("#vg-upscale")
    page.get_by_role("alert").filter(has_text="There is no clip: choose or drop a file").wait_for()
    (tmp_path / "large.mp4").write_bytes(bytes(2**20 + 1))
    page.set_input_files("#vg-upload input[type=file]", str(tmp_path / "large.mp4"))
    page.get_by_text(re.compile("exceeds|exceeded|too large|maximum", re.IGNORECASE)).wait_for()
    large = {"files": {"name": "large.mp4", "mimeType": "video/mp4", "buffer": bytes(2**20 + 1)}}
    answer = page.request.post(f"{served}gradio_api/upload", multipart=large)
    assert answer.status == 413  # also where the page was passed by
    assert not list(pathlib.Path(os.environ["GRADIO_TEMP_DIR"]).rglob("large*"))


WRONG = [
    ("#vg-clip-steps", "many", "--steps=many"),
    ("#vg-clip-guidance", "-1", "weight is -1"),
    ("#vg-prompt", " ", "The prompt is empty: say what to show."),
]


def test_wrong_settings_are_a_sentence(page):
    for where, value, words in WRONG:
        field = page.locator(f"{where} input, {where} textarea")
        before = field.input_value()
        field.fill(value)
        page.click("#vg-generate")
        page.get_by_role("alert").filter(has_text=words).wait_for()
        assert page.locator("#vg-generate").is_enabled()
        field.fill(before)


def test_it_fits_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    for tab in ("Clip", "Story", "Upscale"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("#vg-upscale").bounding_box()
    assert box["width"] > 300


def test_models_to_choose_from():
    """Without flags all that come with vidgen; those of the flags otherwise."""
    own = models.offers(None, None)
    others = ["film_demo", "imagen_distilled", "imagen_teachers"]
    assert [offer.name for offer in own.clips] == [zoo.DEFAULT, zoo.STORIES, *others]
    assert own.named(zoo.DEFAULT).upscaling == STAGES[1:] and own.named(zoo.STORIES).stages == ()
    given = models.offers("imagen_demo/base", "phenaki_demo")
    assert [offer.name for offer in given.clips] == ["imagen_demo/base", "phenaki_demo"]
    assert given.clips[0].upscaling == () and given.stories.name == "phenaki_demo"
    assert [offer.name for offer in models.offers("imagen_teachers", None).clips] == [
        "imagen_teachers"
    ]


# The command ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model=nowhere"], ["nowhere/config.gin", "vidgen train"]),
        (["--story_model=nowhere"], ["nowhere/config.gin"]),
        (["--port=70000"], ["--port is 70000"]),
        (["--upload_mb=0"], ["--upload_mb is 0"]),
        (["--host=no.such.host.invalid"], ["cannot serve on no.such.host.invalid:7860", "--host"]),
        (["--dry_run"], ["no --dry_run"]),
    ],
)
def test_wrong_flags_of_the_command(vidgen, arguments, words):
    vidgen("web", *arguments).assert_sentence(*words)


def test_a_port_that_is_taken(vidgen):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        vidgen("web", f"--port={port}").assert_sentence(f"127.0.0.1:{port}", "--port")


def test_without_gradio(vidgen, monkeypatch):
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    vidgen("web").assert_sentence('the page needs gradio: pip install -e ".[web]"')


def never(*_):
    raise AssertionError("nothing is asked for")


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_other_addresses_and_a_proxy_that_is_not_asked(cascade, monkeypatch, host):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where no one listens
    monkeypatch.delenv("no_proxy", raising=False)  # of the page that is served beside
    settings = server.Settings(model=str(cascade), host=host, port=0)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with server.serving(settings, never, never) as address:
        with direct.open(address, timeout=60) as answer:
            assert b"vidgen" in answer.read()
    assert "no_proxy" not in os.environ


@pytest.mark.cli
def test_the_command_serves_until_it_is_told_to_stop(cascade, tmp_path):
    command = [sys.executable, "-m", "vidgen", "web", f"--model={cascade}", "--port=0"]
    environment = os.environ | {"PYTHONPATH": places.PYTHONPATH, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert b"vidgen" in answer.read()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err and list(tmp_path.glob("vidgen-*")) == []
