"""Python source files: where a module lies, and which names its top level binds; nothing is imported or run."""

import ast
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from torchtune.config import _allow


def module_file(module: str) -> Path | None:
    """The source file of a module (a folder for one without ``__init__``), or None. Imports nothing."""
    top, *rest = module.split(".")
    base = _top(top, *_allow.here())
    if base is None or (rest and not base.is_dir()):
        return None
    path = base.joinpath(*rest)
    for file in (path / "__init__.py", path.with_name(path.name + ".py") if rest else path):
        if file.is_file():
            return file
    return path if path.is_dir() else None


@lru_cache(maxsize=256)
def _top(top: str, cwd: str, changed: int) -> Path | None:
    if (local := _allow.local_root(top)) is not None:
        return local
    try:
        spec = find_spec(top)
    except (ValueError, ImportError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def public_names(module: str) -> list[str]:
    """Public functions, classes and re-exports of a module, by reading it; empty when it cannot be read."""
    file = module_file(module)
    return [n for n in bindings(file, module) if not n.startswith(("_", "*"))] if file else []


def sub_modules(package: str) -> list[str]:
    """Names of the modules directly inside a package."""
    file = module_file(package)
    if file is None or file.name != "__init__.py":
        return []
    found = {p.stem if p.suffix == ".py" else p.name for p in file.parent.iterdir() if p.suffix == ".py" or p.is_dir()}
    return sorted(n for n in found if not n.startswith("_"))


def bindings(file: Path, module: str) -> dict[str, object]:
    """Name -> its definition, import or value, as ``_bound_by`` gives them; ``*`` holds the star imports."""
    if not file.is_file():
        return {}
    stat = file.stat()
    return _read_bindings(str(file), module, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _read_bindings(file: str, module: str, mtime: int, size: int) -> dict[str, object]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the parser has to say of others' files is not for our users
            tree = ast.parse(Path(file).read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return {"*dynamic": True}
    package = module if file.endswith("__init__.py") else module.rpartition(".")[0]
    out: dict[str, object] = {}
    for statement, sure in _statements(tree.body):
        for name, what in _bound_by(statement, package):
            if name == "*":
                out.setdefault("*", []).append(what)
            elif name not in out or (sure and not _is_plain_value(what)):
                out[name] = what
    return out


def _statements(body: list[ast.stmt], sure: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """Top-level statements, also inside if, try and with; a fallback branch does not replace what came first."""
    for s in body:
        yield s, sure
        if isinstance(s, ast.If | ast.Try | ast.With):
            yield from _statements(s.body, sure)
            for handler in getattr(s, "handlers", []):
                yield from _statements(handler.body, False)
            yield from _statements(getattr(s, "orelse", []), isinstance(s, ast.Try) and sure)


def _bound_by(s: ast.stmt, package: str) -> Iterator[tuple[str, object]]:
    match s:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            if "overload" not in {last_name(d) for d in s.decorator_list}:
                yield s.name, s
        case ast.ClassDef():
            yield s.name, s
        case ast.ImportFrom():
            source = _absolute(s, package)
            for alias in s.names:
                yield ("*", source) if alias.name == "*" else (alias.asname or alias.name, ("from", source, alias.name))
        case ast.Import():
            for alias in s.names:
                top = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or top, ("module", top)
        case ast.Assign():
            for target in s.targets:
                if isinstance(target, ast.Name):
                    yield target.id, s.value
                elif isinstance(target, ast.Tuple | ast.List):
                    yield from ((t.id, None) for t in target.elts if isinstance(t, ast.Name))
        case ast.AnnAssign(target=ast.Name(), value=ast.expr()):
            yield s.target.id, s.value
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="globals"))))):
            yield "*dynamic", True
        case ast.For() | ast.While():
            yield "*dynamic", True  # a loop at the top level often fills globals()


def _absolute(s: ast.ImportFrom, package: str) -> str:
    if not s.level:
        return s.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - s.level + 1]
    return ".".join([*base, s.module] if s.module else base)


def _is_plain_value(what: object) -> bool:
    return what is None or (isinstance(what, ast.expr) and not isinstance(what, ast.Name | ast.Attribute | ast.Call))


def is_true(node: ast.expr) -> bool:
    """Whether an expression is the constant True."""
    return isinstance(node, ast.Constant) and node.value is True


def name_chain(node: ast.expr) -> tuple[str, ...] | None:
    """``a.b.c`` as names, or None for any other expression."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (before := name_chain(node.value)) is not None:
        return (*before, node.attr)
    return name_chain(node.value) if isinstance(node, ast.Subscript) else None


def last_name(node: ast.expr) -> str:
    """The last name of ``a.b.c``, of a call to it and of ``a.b.c[...]``."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    chain = name_chain(node)
    return chain[-1] if chain else ""
