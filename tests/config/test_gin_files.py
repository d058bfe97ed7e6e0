"""A part of a saved configuration, read without gin."""

import pytest

from vidgen.config import gin_files

SAVED = """from __gin__ import dynamic_registration
from vidgen.phenaki import tokenizer

# Macros:
# =====
SAMPLE_PROMPTS = \\
    ('a',
     'b')
TOKENIZER = @tokenizer/tokenizer.VideoTokenizer()

# Parameters for tokenizer/cvivit.CViViT:
# =====
tokenizer/cvivit.CViViT.patch = \\
    (2,
     8)
tokenizer/cvivit.CViViT.width = 32

# Parameters for train.Train:
# =====
train.Train.names = \\
    ('x',
     'y')
TOKENIZER_OTHER = 3
"""


def test_an_excerpt_has_the_imports_the_scope_and_the_macro(tmp_path):
    (tmp_path / "config.gin").write_text(SAVED)
    found = gin_files.excerpt(tmp_path / "config.gin", "tokenizer", "TOKENIZER")
    assert found.splitlines() == [
        "from __gin__ import dynamic_registration",
        "from vidgen.phenaki import tokenizer",
        "TOKENIZER = @tokenizer/tokenizer.VideoTokenizer()",
        "tokenizer/cvivit.CViViT.patch = \\",
        "    (2,",
        "     8)",
        "tokenizer/cvivit.CViViT.width = 32",
    ]


def test_a_configuration_without_that_part_is_refused(tmp_path):
    (tmp_path / "config.gin").write_text("MODEL = 3\n")
    with pytest.raises(gin_files.GinError, match=r"config\.gin sets no TOKENIZER"):
        gin_files.excerpt(tmp_path / "config.gin", "tokenizer", "TOKENIZER")


def test_parts_keep_their_lines_and_imports(tmp_path):
    (tmp_path / "a.gin").write_text("import one\nA = 1\ninclude 'b.gin'  # why\nB = 2")
    assert list(gin_files.parts(tmp_path / "a.gin")) == [
        ("import one\nA = 1", "b.gin", 3),
        ("import one\n\n\nB = 2", None, 4),
    ]
