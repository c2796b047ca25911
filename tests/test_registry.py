"""The modules that each registry imports are those that register something in it."""

import re
from collections import defaultdict

from mmonepeace import registry
from tests.conftest import ROOT


def test_locations_are_the_modules_that_register():
    """But for those of models, which are in one package."""
    registering = defaultdict(set)
    for path in (ROOT / "mmonepeace").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name in re.findall(r"^@(\w+)\.register_module", path.read_text(), re.MULTILINE):
            registering[name].add(module)
    del registering["MMENGINE_MODELS"], registering["MODELS"], registering["WEIGHT_INITIALIZERS"]
    assert registering == {name: set(getattr(registry, name)._locations) for name in registering}
