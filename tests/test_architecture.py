"""The import rules of ARCHITECTURE.md: arrows point one way."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "mmonepeace"
# Room -> rooms of ours it may import. A room is a module or folder of the package.
RULES = {
    "spec": set(),
    "registry": set(),
    "console": set(),
    "atomic_file": set(),
    "missing_packages": set(),
    "layers": {"spec"},
    "checkpoint": {
        "layers.adapters",
        "layers.relative_position_bias",
        "layers.resampling",
        "spec",
        "atomic_file",
    },
    "models": {"layers", "checkpoint", "registry", "spec"},
    "datasets": {"registry", "spec", "atomic_file"},
    "checks": {"checkpoint", "datasets", "registry", "spec", "console"},
    "engine": {"checkpoint", "checks", "registry"},
    "evaluation": {"datasets", "registry", "spec"},
    "visualization": {"datasets", "evaluation", "registry", "spec", "console"},
    "apis": {
        "models",
        "datasets",
        "checkpoint",
        "evaluation",
        "visualization",
        "registry",
        "spec",
        "console",
        "atomic_file",
    },
    "cli": {"apis", "checkpoint", "console"},
}
# Packages that only these files may import: the rest meets them by name, in configs.
FOREIGN = {
    "mmseg": {"mmonepeace/models/segmentor.py"},
    "mmdet": {"mmonepeace/models/detector.py"},
    "mmpretrain": set(),
}
TOOLS_MAY = {
    "apis",
    "atomic_file",
    "checkpoint",
    "checks",
    "cli",
    "console",
    "datasets",
    "engine",
    "evaluation",
    "missing_packages",
    "visualization",
}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def violations(path: Path) -> list[str]:
    room = room_of(path)
    found = []
    for name in imports(path):
        package, *rest = name.split(".")
        if package == "mmonepeace" and rest:
            inside = ".".join(rest)
            allowed = RULES[room] | {room}
            permitted = any(inside == a or inside.startswith(f"{a}.") for a in allowed)
            # `from mmonepeace import checkpoint` names a room, `__version__` does not.
            if rest[0] in RULES and not permitted:
                found.append(f"{path.relative_to(ROOT)} imports {name}")
        users = FOREIGN.get(package)
        if users is not None and str(path.relative_to(ROOT)) not in users:
            found.append(f"{path.relative_to(ROOT)} imports {package}")
    return found


MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_what_its_room_may(path):
    assert room_of(path) in RULES, f"{room_of(path)} is a new room: add it to ARCHITECTURE.md"
    assert violations(path) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("layers/attention.py", "from mmonepeace.models import OnePeace"),
        ("spec.py", "import mmonepeace.layers.resampling"),
        ("checkpoint/key_mapping.py", "from mmonepeace.layers.encoder import GeGLU"),
        ("engine/optim.py", "from mmonepeace import models"),
        ("models/onepeace.py", "from mmseg.models import EncoderDecoder"),
    ],
)
def test_an_arrow_turned_around_is_found(module, line, tmp_path, monkeypatch):
    target = tmp_path / "mmonepeace" / module
    target.parent.mkdir(parents=True)
    target.write_text(f"{line}\n{(PACKAGE / module).read_text()}")
    monkeypatch.setattr("tests.test_architecture.ROOT", tmp_path)
    monkeypatch.setattr("tests.test_architecture.PACKAGE", tmp_path / "mmonepeace")
    assert len(violations(target)) == 1


def test_importing_the_package_imports_nothing_heavy():
    names = imports(PACKAGE / "__init__.py")
    assert names == {"sys"}


@pytest.mark.parametrize("path", sorted((ROOT / "tools").rglob("*.py")), ids=lambda p: p.name)
def test_tools_use_the_upper_rooms_only(path):
    ours = {n.split(".")[1] for n in imports(path) if n.startswith("mmonepeace.")}
    assert ours <= TOOLS_MAY


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_unsafe_call(path):
    """torch.load says how it loads; nothing is evaluated; pickle only under restriction."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), path
        if called == "torch.load":
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            safe = keywords.get("weights_only") == "True"
            assert safe or keywords.get("pickle_module") == "_RestrictedPickle", path


def test_the_map_names_every_module():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in MODULES:
        if path.name != "__init__.py":
            assert path.name in text, f"{path.name} is missing from ARCHITECTURE.md"
