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
    with pytest.raises(gin_files.GinError, match="sets no TOKENIZER; name a folder of another"):
        gin_files.excerpt(tmp_path / "config.gin", "tokenizer", "TOKENIZER")


MIXED = """from __gin__ import dynamic_registration
DATASET = @mixtures.Mixture()
IMAGE_RATE = 0.25
RATE = %IMAGE_RATE

# Parameters for images.Joint:
images.Joint.image_rate = %RATE
images.Joint.videos = @train/sprites.Sprites()
mixtures.Mixture.rates = None
mixtures.Mixture.sources = \\
    (@sprites.Sprites(),
     @images.Joint())
train/sprites.Sprites.seed = 3
other.Thing.seed = 4
"""


def test_what_a_macro_of_a_saved_configuration_leads_to(tmp_path):
    (tmp_path / "config.gin").write_text(MIXED)
    found = gin_files.reached(tmp_path / "config.gin", "DATASET")
    assert found["images.Joint.image_rate"] == "0.25"
    assert found["train/sprites.Sprites.seed"] == "3"
    assert "other.Thing.seed" not in found
    assert gin_files.reached(tmp_path / "config.gin", "NOWHERE") == {}
