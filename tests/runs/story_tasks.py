"""The task files of StoryBench (Bugliarello et al. 2023), as its repository has them."""


def task(**changes):
    """An entry as the benchmark's task files have it."""
    return {
        "texts": ["A man dances. ", "He falls."],
        "durations": None,
        "exact_frames_per_prompt": [20, 9],
        "background": None,
        "npz_video": "videos/a.npy",
        "npz_video_start_frame": 0,
        "npz_video_end_frame": 0,
        "npz_gt_video_start_frame": 0,
        "npz_gt_video_end_frame": None,
        "skip_frames_after_generation": None,
        "storybench_mode": "story_gen",
        "indices_to_select": None,
        "comment": "oops_1",
    } | changes
