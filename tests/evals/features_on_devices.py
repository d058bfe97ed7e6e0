"""Features of the clips of test_networks.py on all devices of this process."""

import json
import pathlib
import sys
import tempfile

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import closed_form_network  # noqa: E402
from test_networks import clips, rows  # noqa: E402

with tempfile.TemporaryDirectory() as folder:
    found = rows(closed_form_network.of(pathlib.Path(folder)), clips(), 2)
print(json.dumps({"devices": len(jax.devices()), "rows": found.tolist()}))
