"""Results of made-up measurements, for tests of what is said of them."""

I3D = {
    "name": "I3D-RGB Kinetics-400",
    "layer": "logits",
    "file": "i3d.ckpt",
    "sha256": "af5c" + "0" * 60,
    "size": 224,
    "resize": "bilinear",
    "antialias": False,
    "range": "[-1, 1]",
}


def metric(value, stderr=None, better="lower", **more):
    """One metric."""
    rest = {"n": 64, "n_real": None, "unit": "", "what": "a distance", "network": None}
    return {"value": value, "stderr": stderr, "better": better, "warning": None} | rest | more


def result(title="demo", metrics=None, **more):
    """One result; without `metrics`, of FVD alone."""
    fvd = metric(812.3, 20.1, n_real=64, what="distance of logits", network=I3D)
    return {
        "vidgen": "0.1.0",
        "title": title,
        "protocol": {"name": "sprites", "frames": 8, "seed": 0, "sampling": {"steps": 32}},
        "made": {"what": f"64 clips of {title}", "n": 64, "fingerprint": "1a2b"},
        "real": {"what": "64 held-out clips", "n": 64, "fingerprint": "99aa"},
        "metrics": {"fvd": fvd} if metrics is None else metrics,
    } | more
