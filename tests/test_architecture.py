"""The import rules of ARCHITECTURE.md: imports go one way, without cycles."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "mmonepeace"
# Package or module of ours -> those that it may import.
RULES = {
    "spec": set(),
    "registry": set(),
    "console": set(),
    "atomic_file": set(),
    "missing_packages": set(),
    "lazy_names": set(),
    "garbage": set(),
    "choices": set(),
    "official_release": {"spec"},
    "exit_status": {"console", "missing_packages"},
    "layers": {"spec"},
    "checkpoint": {
        "layers.adapters",
        "layers.relative_position_bias",
        "layers.resampling",
        "spec",
        "atomic_file",
        "console",
        "exit_status",
        "official_release",
    },
    "models": {"layers", "checkpoint", "registry", "spec"},
    "datasets": {"registry", "spec", "atomic_file", "console", "exit_status"},
    "checks": {"checkpoint", "datasets", "registry", "spec", "console", "exit_status"},
    "engine": {"checkpoint", "checks", "registry", "exit_status", "atomic_file", "console"},
    "evaluation": {"datasets", "registry", "spec", "console", "atomic_file"},
    "visualization": {"datasets", "evaluation", "registry", "spec", "console", "atomic_file"},
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
    "export": {"models", "spec", "atomic_file"},
    "safe_reading": {"checkpoint", "exit_status"},
    "timm": {"models", "layers", "checkpoint", "spec"},
    "page": {
        "apis",
        "checkpoint",
        "checks",
        "console",
        "datasets",
        "exit_status",
        "visualization",
    },
    "commands": {
        "apis",
        "atomic_file",
        "checkpoint",
        "checks",
        "console",
        "datasets",
        "engine",
        "evaluation",
        "exit_status",
        "export",
        "missing_packages",
        "official_release",
        "page",
        "spec",
        "visualization",
    },
    "__main__": {"commands"},
}
FOR_ALL = {"choices", "garbage", "lazy_names"}
# Packages that only these files may import: the others refer to them by name, in configs.
FOREIGN = {
    "mmseg": {
        "mmonepeace/apis/dense_prediction.py",
        "mmonepeace/models/segmentation_heads.py",
        "mmonepeace/models/segmentor.py",
    },
    "mmdet": {"mmonepeace/apis/dense_prediction.py", "mmonepeace/models/detector.py"},
    "mmpretrain": set(),
}
TOOLS_MAY = RULES["commands"] | FOR_ALL | {"commands"}


def imports(path: Path, for_types: bool = True) -> set[str]:
    """Full names of what a file imports, inside functions too.

    Args:
        path: the file.
        for_types: include what is imported for type checkers only.
    """
    names = set()
    nodes = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif not for_types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)
    return names


def files_of(root: Path, *folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def import_graph(root: Path, files: Iterable[Path]) -> dict[str, set[str]]:
    """File -> the files among them that it imports, as paths relative to the root.

    `import a.b` refers to the package a.b itself, that is to its __init__.py, where a/b.py does
    not exist. That Python runs the __init__.py of a as well, before b, is left out: there it is
    the same for all files of a package.
    """
    modules = {}
    for path in files:
        inside = path.relative_to(root).with_suffix("")
        parts = inside.parent.parts if inside.name == "__init__" else inside.parts
        modules[".".join(parts)] = str(path.relative_to(root))
    graph = {}
    for path in files:
        targets = set()
        for name in imports(path, for_types=False):
            # The last part may be a name inside the module.
            module = name if name in modules else name.rpartition(".")[0]
            if module in modules:
                targets.add(modules[module])
        graph[str(path.relative_to(root))] = targets
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """For each file that imports itself through others, one shortest way around; each only once."""
    found = {}
    for start in sorted(graph):
        ways = [[start, target] for target in sorted(graph[start])]
        seen = set()
        for way in ways:  # grows: breadth first
            if way[-1] == start:
                found.setdefault(frozenset(way), way)
                break
            if way[-1] not in seen:
                seen.add(way[-1])
                ways += [[*way, target] for target in sorted(graph.get(way[-1], ()))]
    return list(found.values())


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def violations(path: Path) -> list[str]:
    package = package_of(path)
    messages = []
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "mmonepeace" and rest:
            inside = ".".join(rest)
            allowed = RULES[package] | {package} | FOR_ALL
            permitted = any(inside == a or inside.startswith(f"{a}.") for a in allowed)
            # `from mmonepeace import checkpoint` names a package of ours, `__version__` does not.
            if rest[0] in RULES and not permitted:
                messages.append(f"{path.relative_to(ROOT)} imports {name}")
        users = FOREIGN.get(top)
        if users is not None and str(path.relative_to(ROOT)) not in users:
            messages.append(f"{path.relative_to(ROOT)} imports {top}")
    return messages


MODULES = [p for p in files_of(ROOT, "mmonepeace") if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_package_may(path):
    package = package_of(path)
    assert package in RULES, f"{package} is new: add it to ARCHITECTURE.md"
    assert violations(path) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("layers/kernels.py", "from mmonepeace.models import OnePeace"),
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


def test_no_files_import_in_a_circle():
    files = files_of(ROOT, "mmonepeace", "tools", "benchmarks")
    assert [" -> ".join(way) for way in circles(import_graph(ROOT, files))] == []


@pytest.mark.parametrize(
    ("files", "way"),
    [
        (
            {"a.py": "from pkg.b import f", "b.py": "def f():\n    from pkg import a"},
            ["pkg/a.py", "pkg/b.py", "pkg/a.py"],
        ),
        (
            {"a.py": "import pkg.b", "b.py": "import pkg.sub.c", "sub/c.py": "from pkg.a import x"},
            ["pkg/a.py", "pkg/b.py", "pkg/sub/c.py", "pkg/a.py"],
        ),
        (
            {"__init__.py": "from pkg.a import x", "a.py": "import pkg"},
            ["pkg/__init__.py", "pkg/a.py", "pkg/__init__.py"],
        ),
    ],
    ids=["inside a function", "of three files", "through a package"],
)
def test_a_circle_is_found(files, way, tmp_path):
    for name, text in files.items():
        path = tmp_path / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert circles(import_graph(tmp_path, files_of(tmp_path, "pkg"))) == [way]


def test_imports_for_type_checkers_and_diamonds_are_no_circle(tmp_path):
    files = {
        "a.py": "import pkg.b\nimport pkg.c",
        "b.py": "import pkg.d",
        "c.py": "import pkg.d",
        "d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.a import T",
    }
    (tmp_path / "pkg").mkdir()
    for name, text in files.items():
        (tmp_path / "pkg" / name).write_text(text)
    graph = import_graph(tmp_path, files_of(tmp_path, "pkg"))
    assert graph["pkg/a.py"] == {"pkg/b.py", "pkg/c.py"}
    assert circles(graph) == []


def test_importing_the_package_imports_nothing_heavy():
    names = imports(PACKAGE / "__init__.py")
    assert names == {"sys", "mmonepeace.safe_reading"}
    code = "import sys, mmonepeace; print(*{'torch', 'numpy', 'mmengine'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", files_of(ROOT, "tools"), ids=lambda p: p.name)
def test_tools_use_what_commands_may(path):
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


LAZY = [p for p in sorted(PACKAGE.glob("*/__init__.py")) if "lazy_names" in p.read_text()]


@pytest.mark.parametrize("package", LAZY, ids=lambda p: p.parent.name)
def test_no_name_of_a_package_is_one_of_its_modules(package):
    """Once such a module is imported, it would take the place of the name."""
    names = {name.rpartition(".")[2] for name in imports(package)}
    assert names & {path.stem for path in package.parent.iterdir()} == set()
