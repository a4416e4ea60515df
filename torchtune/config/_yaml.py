"""YAML text -> plain values plus the line of every key; safe types only, and nothing that could exhaust the machine."""

import re
from pathlib import Path
from typing import Any

import yaml

from torchtune.config._problem import COMMAND_LINE, Place, near, shown
from torchtune.errors import ConfigError

_Base: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_DEPTH = 50  # real configs nest four deep; libyaml's composer overflows the C stack somewhere above 10,000
MAX_NODES = 100_000  # an alias counts each time it is used, so that a few bytes cannot stand for billions of values

# YAML 1.1 wants a dot and a signed exponent in a float; people write 1e-5, so OmegaConf reads those as floats too.
_FLOAT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(_Base):
    """The safe loader with OmegaConf's floats; dates stay strings, and so does 12:30:45."""

    yaml_implicit_resolvers = {
        first: [(tag, regex) for tag, regex in rules if tag[-9:] != "timestamp" and tag[-6:] != ":float"]
        for first, rules in _Base.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Place]]:
    """The mapping in a YAML file and the place of each of its dotted keys.

    Raises:
        ConfigError: there is no such file, or its text is not one mapping of plain values; names file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {shown(path)}{_neighbour(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{shown(path)} is a folder; --config wants a YAML file") from None
    except PermissionError:
        raise ConfigError(f"{shown(path)}: no permission to read this file") from None
    except UnicodeDecodeError as e:
        raise ConfigError(f"{shown(path)}: not a text file in UTF-8 (byte {e.start}); is this a YAML file?") from None
    return parse_text(text, shown(path))


def parse_text(text: str, file: str) -> tuple[dict[str, Any], dict[str, Place]]:
    """The mapping that ``text`` holds and the place of each dotted key; ``file`` is only for messages."""
    positions: dict[str, Place] = {}
    try:
        root = _compose(text, file)
        if root is None:
            raise ConfigError(f"{file}: the file holds no keys")
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{file}:{_line(root)}: a config is a mapping of `key: value` lines, found {_kind(root)}")
        _Walk(file, positions).mapping(root, "")
        return _construct(root), positions
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise ConfigError(f"{file}:{mark.line + 1 if mark else 1}: {_explain(e, text)}") from None
    except yaml.YAMLError as e:
        raise ConfigError(f"{file}: not YAML: {e}") from None


def parse_value(text: str) -> Any:
    """The value that ``text`` means on the command line: YAML, and ``None`` means null.

    Raises:
        ConfigError: ``text`` opens a list, mapping or quotation that it does not close, or has a tag.
    """
    if text in ("None", ""):
        return None if text else ""
    if text.startswith(("{{", "{%")):  # a chat template; YAML has no such value
        return text
    try:
        root = _compose(text, COMMAND_LINE)
        if root is None:
            return text  # only a comment sign or a document mark: the user meant the characters
        if isinstance(root, yaml.MappingNode | yaml.SequenceNode):
            if root.flow_style is not True:  # `a: b` and `- a` typed as a value are plain text in a shell
                return text
            _Walk(COMMAND_LINE, {}).visit(root, "")
        return _construct(root)
    except yaml.YAMLError as e:
        if text[0] in "[{\"'":
            raise ConfigError(
                f"the value opens {text[0]} and {getattr(e, 'problem', e)}; one with spaces is quoted for the shell, "
                "as 'key={a: 1, b: 2}'"
            ) from None
        return text


def _compose(text: str, file: str) -> yaml.Node | None:
    depth = 0
    for event in yaml.parse(text, Loader=_Base):  # events come one by one; composing recurses in C
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1
                raise ConfigError(f"{file}:{line}: nested more than {MAX_DEPTH} deep; a config is a few levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return yaml.compose(text, Loader=_Loader)


def _construct(root: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(root)
    except ValueError as e:  # a scalar that looks like a number and is none, as an octal 0o9
        raise ConfigError(f"not a number: {e}") from None
    finally:
        loader.dispose()


class _Walk:
    """Notes the line of each key and refuses what a config must not hold."""

    def __init__(self, file: str, positions: dict[str, Place]) -> None:
        self.file, self.positions, self.count = file, positions, 0
        self.open: set[int] = set()

    def visit(self, node: yaml.Node, key: str) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            raise ConfigError(f"{self.file}:{_line(node)}: more than {MAX_NODES} values, counting aliases")
        if isinstance(node, yaml.ScalarNode):
            return
        if id(node) in self.open:
            raise ConfigError(f"{self.file}:{_line(node)}: an alias that contains itself")
        self.open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self.mapping(node, key)
        else:
            for i, item in enumerate(node.value):
                self.positions[_join(key, i)] = Place(self.file, _line(item))
                self.visit(item, _join(key, i))
        self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, key: str) -> None:
        seen: dict[str, int] = {}
        for name, value in node.value:
            line = _line(name)
            if not isinstance(name, yaml.ScalarNode):
                raise ConfigError(f"{self.file}:{line}: a key must be a plain word")
            if name.value in seen:
                raise ConfigError(
                    f"{self.file}:{line}: {_join(key, name.value)!r} stands twice; the first is on line "
                    f"{seen[name.value]}. Remove one of them."
                )
            if not key and not name.tag.endswith((":str", ":merge")):
                raise ConfigError(f"{self.file}:{line}: the key {name.value!r} must be a word (put it in quotes)")
            seen[name.value] = line
            full = _join(key, name.value)
            self.positions[full] = Place(self.file, line)
            if "max_filename" in name.value and isinstance(value, yaml.ScalarNode):
                value.tag = "tag:yaml.org,2002:str"  # 00191 counts files and keeps its zeros; YAML reads it as octal
            self.visit(value, full)


def _join(key: str, name: str | int) -> str:
    return f"{key}.{name}" if key else str(name)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _explain(e: yaml.MarkedYAMLError, text: str) -> str:
    """The YAML library's complaint in words that say what to do."""
    mark = e.problem_mark or e.context_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab indents this line; YAML wants spaces"
    if "could not determine a constructor" in str(e.problem):
        tag = re.search(r"'([^']*)'", str(e.problem))
        return f"the tag {tag[1] if tag else ''} is not allowed; a config holds plain values only"
    context = f" {e.context}," if e.context else ""
    return f"not YAML:{context} {e.problem}. Check the indentation, colons and quotation marks here and one line above."


def _neighbour(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor a folder {shown(path.parent)})"
    return near(path.name, [p.name for p in path.parent.glob("*.y*ml")]).replace(" Did you", "; did you")
