"""What of a saved configuration goes to another machine."""

from vidgen.inference.portable_config import dataset, number, portable, prompts

SAVED = """from __gin__ import dynamic_registration
from vidgen.runs import trained
from vidgen.data.cache import text_cache
BATCH_SIZE = 4
DATA_DIR = '/home/me/videos'
DATASET = @sprites.Sprites()
INIT_FROM = '/home/me/runs/x'
MODEL_DIR = 'runs/a'
SAMPLE_PROMPTS = \\
    ('a tiger',
     'two frogs')
TEACHER_DIR = 'gs://bucket/t'
TEXT_CACHE = \\
    '/home/me/a/long/path'
TEXT_ENCODER = @text_cache.EncodedText()
TOKENIZER_DIR = '/home/me/runs/tok7'
TRAIN_STEPS = 100
text_cache.EncodedText.encoder = @encoder.CachedEncoder()
seqio_source.SeqioSource.modules = ('mine',)
vgg.VGG.path = '/home/me/vgg16.pth'
sprites.Sprites.seed = 0
sprites.Sprites.shape = %CLIP_SHAPE
sprites.Sprites.split = 'train'
FROZEN = @trained.Trained()
"""


def test_places_of_this_machine_are_left_out():
    text = portable(SAVED, "cvivit")
    assert "/home/me" not in text and "bucket" not in text
    for line in (
        "DATA_DIR = %gin.REQUIRED",
        "MODEL_DIR = %gin.REQUIRED",
        "TEXT_CACHE = %gin.REQUIRED",
        "INIT_FROM = ''",
        "TEACHER_DIR = ''",
        "TOKENIZER_DIR = '../cvivit'",
        "TEXT_ENCODER = @encoder.CachedEncoder()",
        "vgg.VGG.path = 'vgg16.pth'",
        "seqio_source.SeqioSource.modules = ()",
        "FROZEN = @frozen.FrozenParams()",  # today's name
        "SAMPLE_PROMPTS = \\",
    ):
        assert line in text.splitlines(), line
    assert portable(text, "cvivit") == text


def test_what_the_card_reads():
    assert number(SAVED, "BATCH_SIZE") == 4 and number(SAVED, "SEED") is None
    assert prompts(SAVED) == ("a tiger", "two frogs") and prompts("") == ()
    assert dataset(SAVED) == ("sprites.Sprites", {"seed": "0", "split": "'train'"})
    assert dataset("DATASET = None") is None
