"""The examples of CONTRIBUTING.md, as files of a folder."""

import re

from places import ROOT


def write_example(folder, title, module):
    """Write the Python and the gin block of a section as MODULE.py and MODULE.gin.

    Both are found by that name once the folder is the current one and on `sys.path`.
    """
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    for language, suffix in (("python", "py"), ("gin", "gin")):
        pattern = rf"^```{language}\n(.*?)^```$"
        (code,) = re.findall(pattern, section, re.DOTALL | re.MULTILINE)
        assert len(code.splitlines()) < 40
        (folder / f"{module}.{suffix}").write_text(code)
    return str(folder / f"{module}.gin")
