"""Tables of captions: what is read as written, and what is refused, by its line and its mend."""

import pytest

from vidgen.data.sources.caption_tables import csv_rows, jsonl_rows


def rows_of(tmp_path, text, names=("a.mp4", "b.mp4", "c.mp4")):
    table = tmp_path / "captions.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(row.name, row.value) for row in csv_rows(str(table), "file", names.__contains__)]


@pytest.mark.parametrize(
    "text",
    [
        'file,caption\na.mp4,"a cat, running"\nb.mp4,a dog\n',
        '\ufefffile,caption\r\na.mp4,"a cat, running"\r\n\r\nb.mp4,a dog',
        'file,caption\ra.mp4,"a cat, running"\rb.mp4,a dog\r',
        ' caption , file \n"a cat, running",a.mp4\na dog,b.mp4\n',
        'file, caption\na.mp4, "a cat, running"\n,\nb.mp4, a dog\n',
        'file,fps,caption,\na.mp4,25,"a cat, running",\nb.mp4,,a dog,\n',
    ],
)
def test_what_is_right(tmp_path, text):
    assert rows_of(tmp_path, text) == [("a.mp4", "a cat, running"), ("b.mp4", "a dog")]


def test_quotation_marks_that_belong_to_a_caption(tmp_path):
    text = 'file,caption\na.mp4,"a ""big"" dog"\nb.mp4,a 5" screen\nc.mp4,"two\nlines, b.mp4"\n'
    assert [value for _, value in rows_of(tmp_path, text)] == [
        'a "big" dog',
        'a 5" screen',
        "two\nlines, b.mp4",
    ]


@pytest.mark.parametrize(
    ("text", "line", "mend"),
    [
        ("file,caption\na.mp4,a cat, running\n", 2, "3 fields and the header 2; put .* in quot"),
        ("file,caption\n\na.mp4,a cat\nb.mp4\n", 4, "1 fields"),
        ("caption,file\na cat, running,a.mp4\n", 2, "3 fields"),
        ('file,caption\na.mp4,"a cat\nb.mp4,a dog\n', 2, "is not closed"),
        ('file,caption\na.mp4,"a cat\nb.mp4,a dog\nc.mp4,"a bird"\n', 2, "is not closed"),
        ('file,caption\na.mp4,"a cat\nb.mp4,a dog"\n', 2, "takes in the row of b.mp4; close it"),
        ('caption,file\n"a cat,a.mp4\na dog",b.mp4\n', 2, "takes in the row of a.mp4"),
        ('file,caption\nc.mp4,x\na.mp4,"a cat" runs\n', 3, 'has text after it .* write ""'),
        ('file,caption\na.mp4,"a "big" dog"\n', 2, 'write ""'),
        ('file,caption\na.mp4,""a cat"" runs\n', 2, 'write ""'),
    ],
)
def test_what_would_cut_or_swallow_a_caption(tmp_path, text, line, mend):
    with pytest.raises(ValueError, match=rf"captions\.csv line {line}\b.*{mend}"):
        rows_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"names \[\]"),
        ("name,text\na.mp4,x\n", r"\['name', 'text'\]"),
        ("file,caption,caption\na.mp4,x,y\n", r"\['caption', 'caption', 'file'\]"),
        ("file\tcaption\na.mp4\tx\n", r"comma, .*'\\t'"),
        ("file;caption\na.mp4;x\n", "comma, .*';'"),
        ("file,caption\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_headers_that_are_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        rows_of(tmp_path, text)


def test_jsonl(tmp_path):
    table = tmp_path / "captions.jsonl"
    table.write_bytes(
        b'\xef\xbb\xbf{"file": "a", "caption": ["x", 1]}\r\n\r\n{"file": "b", "caption": NaN}'
    )
    (first, second) = jsonl_rows(str(table))
    assert first == (1, "a", ["x", 1])
    assert second[:2] == (3, "b") and second.value != second.value
    for wrong in ('{"file": "a"}', '{"file": 1, "caption": "x"}', "[]", '"a"', '{"file": "a", '):
        table.write_text('{"file": "a", "caption": "x"}\n' + wrong)
        with pytest.raises(ValueError, match="line 2 is not like"):
            list(jsonl_rows(str(table)))
    table.write_text('{"file": "a", "caption": "x", "caption": "y"}')
    with pytest.raises(ValueError, match="line 1 .*'caption' twice"):
        list(jsonl_rows(str(table)))
