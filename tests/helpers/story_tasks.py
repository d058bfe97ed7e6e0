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


def built(starts, ends, video, video_frames, *, fps=8):
    """The entries of all three kinds of task for one annotated video, by the benchmark's rules.

    Times in seconds become frame numbers by rounding. Half a second is given before generation:
    after the start of the first action in story continuation, from the start of the video in action
    execution, where each later action is given all before it.
    """
    begins = [round(fps * start) for start in starts]
    stops = [min(video_frames, round(fps * end)) for end in ends]
    lengths = [stop - begin for begin, stop in zip(begins, stops, strict=True)]
    texts, half = [f"action {i}" for i in range(len(begins))], int(fps * 0.5)

    def entry(name, texts, lengths, shown, **changes):
        own = {"texts": texts, "exact_frames_per_prompt": lengths, "npz_video": str(video)}
        own |= {"npz_video_end_frame": shown, "skip_frames_after_generation": shown}
        return task(**own | {"storybench_mode": name, "comment": name} | changes)

    generated = {"background": "A hall.", "skip_frames_after_generation": None}
    story = entry("story_gen", texts, lengths, 0, **generated)
    rest = [lengths[0] - half, *lengths[1:]]
    going_on = entry("story_cont", texts, rest, begins[0] + half)
    shown, actions = max(begins[0], half), []
    lengths = [lengths[0] - max(half - begins[0], 0), *lengths[1:]]
    for i, (text, length, stop) in enumerate(zip(texts, lengths, stops, strict=True)):
        truth = {"npz_gt_video_start_frame": shown, "npz_gt_video_end_frame": stop}
        truth |= {"comment": f"action_exe_{i}"}
        actions.append(entry("action_exe", [text], [length], shown, **truth))
        shown = stop
    return {"story_gen": [story], "story_cont": [going_on], "action_exe": actions}
