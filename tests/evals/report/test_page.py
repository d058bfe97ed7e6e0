"""The page of a report: well-formed, self-contained, escaped, and with the clips in it.

Tests of vidgen/evals/report/plots.py too.
"""

import base64
import builtins
import html.parser
import json
import math
import re

import numpy as np
import pytest
from made_results import I3D, metric, result

from vidgen.data.video.encode import write_video
from vidgen.evals.report import page as report_page
from vidgen.evals.report import plots

VOID = {"meta", "link", "img", "br"}
PROMPT = 'a <b>&"tiger" moving</script> right'


class Page(html.parser.HTMLParser):
    """Tags with attributes, texts, and whether each tag that opens is closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open or tag == "svg"  # elsewhere HTML has no such tags
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def clip(path, seed=0):
    video = np.random.default_rng(seed).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    write_video(path, video, 8)
    return str(path)


def bytes_of(uri):
    head, _, data = uri.partition(",")
    return head, base64.b64decode(data)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    names = ("a.mp4", "b.webm", "c.gif", "d.webp", "real.mp4")
    return {name: clip(folder / name, i) for i, name in enumerate(names)}


@pytest.fixture(scope="module")
def both(files, tmp_path_factory):
    """Two results with clips and curves."""
    log = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    lines = [{"step": 10 * i, "loss": 1 / (i + 1), "eval_loss": None} for i in range(1000)]
    lines[5]["eval_loss"] = 0.5
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1')
    better = metric(500.0, 20.0, n_real=64, network=I3D, what="distance & logits", warning="<few>")
    a = {"fvd": better, "psnr": metric(math.inf, None, "higher", unit="dB")}
    b = {"fvd": better | {"value": 900.0}, "psnr": metric(math.nan, None, "higher", unit="dB")}
    shown = [
        [{"prompt": PROMPT, "made": files[x], "real": files["real.mp4"]} for x in names]
        for names in (("a.mp4", "b.webm"), ("c.gif", "d.webp"))
    ]
    return [
        result("$one$ <i>", a, videos=shown[0], curves=str(log)),
        result("two", b, videos=shown[1], curves=None),
    ]


@pytest.fixture(scope="module")
def text(both):
    """Their page."""
    return report_page.page(both)


def test_the_page_is_well_formed_and_asks_for_nothing(text):
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "script" not in {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        for name, value in attrs.items():
            if name in ("src", "href", "xlink:href", "poster", "srcset", "data", "action"):
                assert value.startswith(("data:", "#")), (tag, name, value[:50])
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text.split("base64")[0])
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text).replace("http-equiv", "")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
    assert used and used <= set(ids)


def test_everything_is_escaped(text):
    page = Page(text)
    assert page.text.count(PROMPT) == 2
    assert {attrs["aria-label"] for attrs in page.all("video")} == {PROMPT}
    assert {attrs["alt"] for attrs in page.all("img")} == {PROMPT}
    assert "<few>" in page.text and "distance & logits" in page.text
    assert "$one$ <i>" in page.text
    assert not page.all("b") and not page.all("i")


def test_the_clips_are_the_bytes_of_their_files(text, files):
    page = Page(text)
    videos = [bytes_of(attrs["src"]) for attrs in page.all("video")]
    images = [bytes_of(attrs["src"]) for attrs in page.all("img")]

    def content(name):
        with open(files[name], "rb") as file:
            return file.read()

    real = (
        "data:video/mp4;base64",
        content("real.mp4"),
    )  # once a card, though both results name it
    assert videos == [
        ("data:video/mp4;base64", content("a.mp4")),
        real,
        ("data:video/webm;base64", content("b.webm")),
        real,
    ]
    assert images == [
        ("data:image/gif;base64", content("c.gif")),
        ("data:image/webp;base64", content("d.webp")),
    ]
    for attrs in page.all("video"):
        assert {"autoplay", "loop", "muted", "playsinline"} <= attrs.keys()


def test_cards_put_results_and_the_real_clip_side_by_side(text):
    cards = text.split('<div class="clip">')[1:]
    assert len(cards) == 2
    for card in cards:
        found = re.findall(r"<figcaption>(.*?)</figcaption>", card)
        names = [re.sub(r"<.*?>|&NoBreak;", "", name) for name in found]
        assert names == ["$one$ &lt;i&gt;", "two", "real"]


def test_two_results_side_by_side_with_infinities(text):
    page = Page(text)
    rows = re.findall(r"<tr>.*?</tr>", text)
    head, fvd, psnr = rows[:3]
    assert head.count("<th>") == 4
    assert re.findall(r'<td class="value">(.*?)<small>', fvd) == [
        '<span class="best">500 ± 20 ✓</span>',
        "900 ± 20",
    ]
    assert re.findall(r'<td class="value">(.*?)<small>', psnr) == ["inf dB", "not a number dB"]
    assert "64 clips, 64 real" in fvd and "64 clips<" in psnr
    labels = [attrs["aria-label"] for attrs in page.all("svg")]
    assert labels == [
        "fvd: 500 ± 20, 900 ± 20",
        "psnr: inf dB, not a number dB",
        "losses of $one$ <i> over steps of training",
    ]
    assert "sampling.steps" in page.text and I3D["sha256"] in page.text


def test_one_result_without_clips_or_curves():
    page = Page(report_page.page([result()]))
    assert "fvd" in page.text and "812 ± 20" in page.text
    assert not page.all("video") and "Training" not in page.text and "✓" not in page.text
    assert len(page.all("svg")) == 1


def test_a_metric_that_one_result_lacks():
    text = report_page.page([result("a", {"x": metric(1.0)}), result("b", {"y": metric(-2.0)})])
    found = re.findall(r'<td class="value">(.*?)<small>', text)
    assert found == ["1.000", "-", "-", "-2.000"]


def bars(svg):
    """Widths and colors of the bars, in points."""
    paths = re.findall(r'<path d="M (\S+) \S+ \nL (\S+) [^"]*"[^>]*fill: (#\w+)"', svg)
    return [(float(b) - float(a), color) for a, b, color in paths]


def test_bars_are_as_long_as_values(both):
    (svg,) = plots.metric_svgs(
        [result("a", {"m": metric(300.0, 5.0)}), result("b", {"m": metric(100.0, 5.0)})]
    )
    (a, blue), (b, orange) = bars(svg)
    assert a / b == pytest.approx(3.0, rel=1e-4)
    assert [blue, orange] == [plots.color_of(0), plots.color_of(1)]


def test_plots_take_the_color_of_the_text_and_have_no_background(both):
    svg = plots.metric_svgs(both)[0]
    assert "currentColor" in svg and "#123457" not in svg
    assert "#ffffff" not in svg and "fill: #000000" not in svg


def test_same_results_same_bytes_whatever_the_user_likes(both, text):
    import matplotlib

    with matplotlib.rc_context({"font.size": 20, "axes.linewidth": 4}):
        assert report_page.page(both) == text


def test_letters_without_a_glyph_are_left_to_the_browser():
    page = Page(report_page.page([result("トラ", curves=None, metrics={"虎": metric(1.0)})]))
    assert "虎" in page.text


def test_curves_are_thinned_to_means(tmp_path):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    rows = [{"step": i, "loss": float(i % 2) + 1} for i in range(4000)]
    plots.draw_losses(axes, rows)
    (line,) = axes.get_lines()
    assert len(line.get_xdata()) == 400
    np.testing.assert_allclose(line.get_ydata(), 1.5)
    np.testing.assert_allclose(line.get_xdata(), np.arange(400) * 10 + 4.5)
    assert axes.get_yscale() == "log"


def test_a_log_with_a_torn_end_and_one_that_is_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert plots.rows(path) == [{"step": 1, "loss": 2.0}]
    path.write_text("hello\n{}\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: .* line 1 "):
        plots.rows(path)


def test_a_missing_clip_is_a_sentence(tmp_path):
    path = str(tmp_path / "gone.mp4")
    found = result(videos=[{"prompt": "x", "made": path, "real": None}])
    with pytest.raises(FileNotFoundError) as error:
        report_page.write_page(tmp_path / "page.html", [found])
    assert error.value.filename == path
    assert error.value.strerror == (
        "the page is to show this clip, which cannot be read (No such file or directory)"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_browsers_do_not_play():
    found = result(videos=[{"prompt": "x", "made": "a.npy", "real": None}])
    with pytest.raises(ValueError, match=r"a\.npy: .* \.mp4, \.webm, \.gif"):
        report_page.page([found])


def test_no_result_is_a_sentence():
    with pytest.raises(ValueError, match="needs a result"):
        report_page.page([])


def test_without_matplotlib_is_a_sentence(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r'need matplotlib: pip install "vidgen\[eval\]"'):
        report_page.page([result()])


def test_writing_replaces_the_page_whole(tmp_path, both, text):
    path = tmp_path / "inner" / "page.html"
    report_page.write_page(path, [result()])
    report_page.write_page(path, both)
    assert path.read_text(encoding="utf-8") == text
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
