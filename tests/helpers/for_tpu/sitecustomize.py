"""Python reads this at its start where this folder is on the path. See helpers/tpu_programs.py."""

import importlib.util
import sys


class _Programs:
    """Finds vidgen/plan/programs.py, which from then on keeps what the compiler says."""

    def find_spec(self, name, path=None, target=None):
        if name != "vidgen.plan.programs":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec and spec.loader
        execute = spec.loader.exec_module

        def exec_module(module):
            import tpu_programs

            execute(module)
            module._compile = tpu_programs.kept(module._compile)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Programs())
