"""The text that `vidgen COMMAND --help` ends with, by command; "" is for `vidgen --help`."""

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
  launch/local.sh --smoke --gin_file=experiments/imagen_base_tiny.gin --gin.MODEL_DIR="'runs/a'"

Re-running the same command resumes from the last checkpoint in MODEL_DIR.""",
    "generate": """examples:
  vidgen generate "a tiger moving right on a green background" -o tiger.mp4
  vidgen generate "a tiger moving right on a green background" --until=ssr1 --guidance=2 --seed=5
  vidgen generate "a tiger moving right on a green background" --model=imagen_teachers \\
      --until=tsr1 --guidance=3,base=6:1 --steps=64,base=128 -o tiger.gif
  vidgen generate "a tiger moving right on a green background" --model=runs/a -o tiger.mp4
  vidgen generate "a tiger moving right" --model=runs/cascade --until=ssr1 --keep_stages
  vidgen generate --prompts_file=prompts.txt --model=runs/cascade -o clips.webm \\
      --num_samples=4 --steps=base=256,tsr1=64 --guidance=3,base=15:1
  vidgen generate --model=runs/cascade --from=ssr1 --init=holiday.mp4 --init_size=own
  vidgen generate "a tiger moving right" --model=runs/a --negative="a frog" --preview=now.png
  vidgen generate "a tiger moving right" --model=runs/a --init=holiday.mp4 --strength=0.6
  vidgen generate "the tiger moves on" --model=runs/cascade --first=tiger.mp4
  vidgen generate "a tiger moving right" --model=runs/cascade --long --frames=512 -o long.mp4
  vidgen generate --story="a tiger moving right. then a tiger growing" -o video.mp4
  vidgen generate --story=story.yaml --model=runs/phenaki -o video.mp4 \\
      --upscale=ssr1,ssr2 --upscale_model=runs/cascade

--model is the folder of one stage, or of a cascade with one folder for each stage (base, tsr1,
ssr1, ssr2, tsr2, tsr3, ssr3), or of Phenaki (maskgit and its tokenizer). A PER-STAGE value is one
for all stages (64), some by name (base=256,tsr1=64), or both (64,base=256). The suffix of --output
chooses the format: .mp4, .webm, .gif (at most 50 frames per second), .webp (at most 90), .png (a
sheet of frames) or .npy. Several clips are numbered: clips-000.webm, clips-001.webm, ... An
existing file of that name is replaced. The same seed, prompt, models and settings give the same
clip, alone or among others, and whether its stages run at once or one after the other with --until
and --from.

The default, imagen_demo, accepts any guidance weight, sampler and number of steps. The students of
an earlier cascade, imagen_distilled, accept weights from 0 to 2, and 8 steps of the stochastic
sampler or 4 of ddim, which is what they learned; their teachers, imagen_teachers, accept any.""",
    "evaluate": """examples:
  vidgen evaluate --model=imagen_demo --clips=64            a text-to-video model, or a cascade
  vidgen evaluate --model=runs/phenaki/cvivit               a tokenizer: does it reconstruct clips
  vidgen evaluate --model=runs/cascade/ssr1                 a super-resolution stage
  vidgen evaluate --model=runs/a --given=5                  a model that continues 5 frames
  vidgen evaluate --model=runs/a --gin_file=data/folder.gin --gin.DATA_DIR="'videos'"
                                                            with other data than its own
  vidgen evaluate made/ real/                               two folders of videos
  vidgen evaluate made.npz real.npy --metrics=fvd,kvd       two arrays (n, t, h, w, 3)
  vidgen evaluate made/                                     one set, by itself
  vidgen evaluate --model=runs/a --protocol=ucf101 --gin.TFDS_DIR="'data'"
                                                            a benchmark of the papers
  vidgen evaluate --model=runs/phenaki --protocol=storybench --stories=story_gen.json -o raw/
                                                            StoryBench: videos as .npz
  vidgen evaluate a.json b.json --html=both.html            two results side by side
  vidgen evaluate --model=runs/a -o a.json --html=a.html    a file, and a page with videos

Clips and features are kept, so re-running the same command resumes, and computing other metrics of
the same clips is quick. `vidgen evaluate --metrics=help` lists the metrics and what each needs; by
default all that can be computed are.
The protocols are, and the head of each file in gin_configs/evaluations/ says what to bring:
  ucf101 bair kinetics600 moments_in_time msrvtt coco storybench""",
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

Re-running the same command resumes, and adds new captions.""",
    "prepare": """examples:
  vidgen prepare --gin_file=experiments/imagen_base_demo.gin \\
      --gin.RAW_VIDEOS="'films'" --gin.RECORDS="'prepared'"
  vidgen prepare --gin_file=experiments/imagen_base_demo.gin \\
      --gin.RAW_VIDEOS="'films/*.mp4'" --gin.RECORDS="'prepared'" --gin.Prepare.shards=64 \\
      --gin.Prepare.pipeline_args="('--direct_running_mode=multi_processing', \\
      '--direct_num_workers=8')"
  vidgen train --gin_file=experiments/imagen_base_demo.gin --gin_file=data/clip_records.gin \\
      --gin.RECORDS="'prepared'" --gin.MODEL_DIR="'runs/mine'"

Cuts are detected, or read from clip.shots.json beside clip.mp4. Re-running the same command
resumes.""",
    "check": """examples:
  vidgen check my_videos
  vidgen check my_videos --gin_file=experiments/phenaki_cvivit_demo.gin --sheet=clips.png
  vidgen check "shards/{00000..00199}.tar" --clips=0 --json
  vidgen check --gin_file=experiments/imagen_base_tiny.gin --gin_file=data/tfds.gin \\
      --gin.TFDS_DIR="'data'" --gin.TFDS_NAME="'ucf101/ucf101_1'"

Captions and files are read by what training reads them with, so what is refused here is skipped
there. Without an experiment one is chosen, with a clip that suits the length, the rate and the
shape of the videos.""",
    "plan": """examples:
  vidgen plan --gin_file=experiments/imagen_cascade_paper.gin
  vidgen plan --gin_file=experiments/imagen_ssr3_paper.gin --sampling --topology=v5p:2x2x1
  vidgen plan --gin_file=experiments/imagen_base_demo.gin --gin.BATCH_SIZE=64 --compile --json""",
    "web": """examples:
  vidgen web
  vidgen web --model=runs/cascade --story_model=runs/phenaki --port=8000

The page runs one generation at a time; others wait. What it writes is removed when it is stopped:
download what is to stay. With another --host whoever reaches this machine can use it.""",
    "export": """examples:
  vidgen export runs/a -o tiger_model
  vidgen export runs/cascade -o hf://OWNER/cascade --weights=8bit --license=apache-2.0 \\
      --data="sprite videos" --metrics=cascade.json
  vidgen generate "a tiger moving right on a green background" --model=tiger_model -o tiger.mp4

The folder has the layout of the Hugging Face Hub: a model card (README.md), safetensors weights,
the configuration and samples. --model, INIT_FROM, TEACHER_DIR and TOKENIZER_DIR take it, also as
gs://... or hf://..., and nothing in it can run code.""",
    "merge": """examples:
  vidgen merge runs/lora -o runs/merged
  vidgen generate "a tiger moving right in negative" --model=runs/merged -o tiger.mp4

`vidgen generate --model=runs/lora` makes the same clips, as long as the base is there.""",
    "average": """examples:
  vidgen average runs/a --length=0.1 -o runs/a10
  vidgen generate "a tiger moving right on a green background" --model=runs/a10 -o tiger.mp4""",
    "assets": """examples:
  vidgen assets list
  vidgen assets fetch minilm
  VIDGEN_ASSETS=/media/stick vidgen assets path minilm""",
}
