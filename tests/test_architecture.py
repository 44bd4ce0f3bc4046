"""The rooms of the house: who may import whom, one home per third party, no pickles, sizes and docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from mad.stages._base import upstream

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "mad").rglob("*.py"))
MODULES = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}

LEAVES = {"errors", "config", "values", "registry", "redaction"}
STORAGE = {"artifacts", "store", "drafts", "context", "files"}
TOP = {"api", "sweep", "__main__", "terminal", "__init__"}
PLUGINS = {"tasks", "models", "detectors", "behaviors"}
ALLOWED = {
    **{room: LEAVES for room in LEAVES},
    **{room: LEAVES | STORAGE for room in STORAGE},
    "stats": LEAVES,
    **{room: LEAVES | {"stats"} for room in PLUGINS},
    "behaviors": LEAVES | {"stats", "models"},  # a judge may be a model
    "stages": LEAVES | STORAGE | PLUGINS | {"stats"},
    "runtime": LEAVES | STORAGE | PLUGINS | {"stats", "stages", "terminal"},
    "terminal": LEAVES | STORAGE,
    "api": LEAVES | STORAGE | {"runtime", "stages", "sweep", "terminal"},
    "sweep": LEAVES | STORAGE | {"runtime", "stages", "terminal", "__main__"},
    "__main__": LEAVES | STORAGE | {"runtime", "stages", "sweep", "terminal"},
    "__init__": LEAVES | PLUGINS | {"api"},
}
"""Room to the other rooms it may import; every room may import itself."""

HOMES = {
    "ray": ("mad.runtime",),
    "mlflow": ("mad.runtime",),
    "optuna": ("mad.runtime",),
    "transformers": ("mad.models",),
    "tokenizers": ("mad.models",),
    "huggingface_hub": ("mad.models",),
    "datasets": ("mad.tasks",),
    "sacrebleu": ("mad.behaviors",),
    "peft": ("mad.models",),
    "bitsandbytes": ("mad.models",),
    "torchvision": ("mad.tasks", "mad.models"),
    "sklearn": ("mad.tasks", "mad.stats", "mad.detectors"),
    "matplotlib": ("mad.stages.report", "mad.stages._figures"),
    "rich": ("mad.terminal",),
    "jsonargparse": ("mad.values",),
    "fsspec": ("mad.store",),
    "dotenv": ("mad.runtime.settings",),
}
"""Third party to the only modules that may import it."""
PLUGIN_FOLDERS = (
    "mad.tasks",
    "mad.tasks.triggers",
    "mad.tasks.prompts",
    "mad.models.architectures",
    "mad.models.engines",
    "mad.detectors",
    "mad.stats.bets",
    "mad.stats.operators",
    "mad.tasks.streams",
    "mad.stats.baselines",
    "mad.behaviors",
    "mad.stages",
)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> tuple[str, ...]:
    """Dotted names a module imports, anywhere in it; ``from a import b`` counts as ``a.b``."""
    found = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def own(module: str) -> list[str]:
    """The modules of mad that a module imports."""
    found = []
    for name in imports(module):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name.startswith("mad"):
            found.append(name)
    return found


def is_plugin(module: str) -> bool:
    folder, _, name = module.rpartition(".")
    return (
        folder in PLUGIN_FOLDERS
        and not name.startswith("_")
        and module not in PLUGIN_FOLDERS
        and MODULES[module].name != "__init__.py"
    )


def breaches(module: str) -> list[str]:
    """The imports of mad by which a module breaks the order of the rooms."""
    mine = room(module)
    return [f"{module} imports {name}" for name in own(module) if room(name) not in {mine, *ALLOWED[mine]}]


def test_every_room_is_known():
    assert {room(module) for module in MODULES} <= set(ALLOWED)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_points_up(module):
    assert breaches(module) == []


@pytest.mark.parametrize("module", [m for m in MODULES if is_plugin(m)])
def test_plugins_share_by_private_modules_only(module):
    folder = module.rpartition(".")[0]
    siblings = [name for name in own(module) if name.rpartition(".")[0] == folder and is_plugin(name)]
    if folder == "mad.stages":
        # A stage may use the functions of those before it in its chain: detect loads what fit wrote.
        before = {f"mad.stages.{stage.name}" for stage in upstream(module.rpartition(".")[2])}
        siblings = [name for name in siblings if name not in before]
    assert siblings == []


@pytest.mark.parametrize("library", HOMES)
def test_third_parties_have_one_home(library):
    strays = [
        module
        for module in MODULES
        for name in imports(module)
        if name.split(".")[0] == library
        and not module.startswith(HOMES[library])
        and not (library == "matplotlib" and module.startswith("mad.stages._") and module.endswith("_figures"))
    ]
    assert strays == []


def loads_pickles(source: ast.Module) -> list[str]:
    """What may unpickle; the name of pickle's error is needed to catch what a library raises."""
    modules = {"pickle", "joblib", "dill", "cloudpickle"}
    calls = {"torch.load", "torch.save", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle"}
    found = []
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in modules - {"pickle"}]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in modules else []
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            found += [name] if name in calls or (name.startswith("pickle.") and not name.endswith("Error")) else []
    return found


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_unpickled(module):
    assert loads_pickles(tree(module)) == []


@pytest.mark.parametrize("module", MODULES)
def test_what_is_public_says_what_it_is(module):
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"
    public = [
        node
        for node in tree(module).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_small(module):
    assert len(MODULES[module].read_text().splitlines()) < 300


def test_no_machine_paths():
    strays = [m for m, f in MODULES.items() if any(p in f.read_text() for p in ("/home/", "/work/", "/Users/"))]
    assert strays == []


@pytest.mark.parametrize("module", ["mad", "mad.__main__", "mad.sweep"])
def test_importing_is_quick(module):
    slow = ("torch", "ray", "mlflow", "jsonargparse", "rich")
    code = f"import sys, {module}; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("mad.stats.gaussian", "from mad.detectors import knn"),
        ("mad.detectors.knn", "from mad.store import Store"),
        ("mad.stages.fit", "import mad.runtime.engine"),
        ("mad.config", "from mad.store import Store"),
        ("mad.tasks.backdoor", "from mad import terminal"),
    ],
)
def test_a_breach_is_found(module, line, monkeypatch):
    source = MODULES[module].read_text() + f"\n\ndef _late():\n    {line}\n"
    monkeypatch.setattr(sys.modules[__name__], "tree", lambda m: ast.parse(source))
    imports.cache_clear()
    try:
        assert len(breaches(module)) == 1
    finally:
        imports.cache_clear()


def test_a_pickle_is_found():
    source = "import torch\nimport pickle\nx = torch.load('a')\nfrom joblib import load\ny = pickle.loads(b'')"
    assert sorted(loads_pickles(ast.parse(source))) == ["joblib", "pickle.loads", "torch.load"]
    assert loads_pickles(ast.parse("import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    pass")) == []
