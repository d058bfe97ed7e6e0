"""The examples that `vidgen COMMAND --help` ends with, by command; "" is for `vidgen --help`."""

from __future__ import annotations

EXAMPLES = {
    "": """examples:
  vidgen train --gin_file=experiments/imagen_base_tiny.gin --gin.MODEL_DIR="'runs/a'"
  vidgen generate "a tiger moving right on a green background" --model=runs/a -o tiger.mp4
  vidgen plan --gin_file=experiments/imagen_base_paper.gin
  vidgen COMMAND --help""",
    "train": """examples:
  vidgen train --gin_file=experiments/imagen_base_tiny.gin --gin.MODEL_DIR="'runs/a'"
  vidgen train --gin_file=experiments/imagen_base_tiny.gin --gin_file=data/folder.gin \\
      --gin.DATA_DIR="'my_videos'" --gin.MODEL_DIR="'runs/b'" --gin.TRAIN_STEPS=20000
  vidgen train --gin_file=experiments/imagen_distill_tiny.gin --gin.TEACHER_DIR="'runs/a'" \\
      --gin.MODEL_DIR="'runs/a8'"

The same command again continues from the last checkpoint in MODEL_DIR.""",
    "encode": """examples:
  vidgen encode --gin_file=experiments/imagen_base_demo.gin --gin_file=data/folder.gin \\
      --gin.DATA_DIR="'my_videos'" --gin.TEXT_CACHE="'captions'"
  vidgen train --gin_file=experiments/imagen_base_demo.gin --gin_file=data/folder.gin \\
      --gin_file=text/encoded.gin --gin.DATA_DIR="'my_videos'" --gin.TEXT_CACHE="'captions'" \\
      --gin.MODEL_DIR="'runs/mine'"
  vidgen encode --gin_file=experiments/phenaki_maskgit_demo.gin --gin_file=data/folder.gin \\
      --gin_file=runs/encode_tokens.gin --gin.DATA_DIR="'my_videos'" \\
      --gin.TOKENIZER_DIR="'runs/phenaki/cvivit'" --gin.TOKEN_CACHE="'tokens'"
  vidgen train --gin_file=experiments/phenaki_maskgit_demo.gin --gin_file=data/folder.gin \\
      --gin_file=data/tokens.gin --gin.TOKENIZER_DIR="'runs/phenaki/cvivit'" \\
      --gin.TOKEN_CACHE="'tokens'" --gin.MODEL_DIR="'runs/phenaki/maskgit'"

The same command again goes on where it was stopped, and adds new captions.""",
    "prepare": """examples:
  vidgen prepare --gin_file=experiments/imagen_base_demo.gin \\
      --gin.RAW_VIDEOS="'films'" --gin.RECORDS="'prepared'"
  vidgen prepare --gin_file=experiments/imagen_base_demo.gin \\
      --gin.RAW_VIDEOS="'films/*.mp4'" --gin.RECORDS="'prepared'" --gin.Prepare.shards=64 \\
      --gin.Prepare.pipeline_args="('--direct_running_mode=multi_processing', \\
      '--direct_num_workers=8')"
  vidgen train --gin_file=experiments/imagen_base_demo.gin --gin_file=data/clip_records.gin \\
      --gin.RECORDS="'prepared'" --gin.MODEL_DIR="'runs/mine'"

Cuts are found, or read from clip.shots.json beside clip.mp4. The same command again goes on
where it was stopped.""",
    "plan": """examples:
  vidgen plan --gin_file=experiments/imagen_cascade_paper.gin
  vidgen plan --gin_file=experiments/imagen_ssr3_paper.gin --sampling --topology=v5p:2x2x1
  vidgen plan --gin_file=experiments/imagen_base_demo.gin --gin.BATCH_SIZE=64 --compile --json""",
    "assets": """examples:
  vidgen assets list
  vidgen assets fetch minilm
  VIDGEN_ASSETS=/media/stick vidgen assets path minilm""",
}
