"""Where chat templates run: they reach nothing but what they are given, and do no more than a number of steps."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

from torchtune.modules.transforms.tokenizers._chat_template import Span

MAX_STEPS = 1_000_000
STEPS_OF_A_PAIR = 10  # of messages, in addition; Gemma 4's and gpt-oss's templates take one or two of them
MAX_CHARS = 100_000_000
_MAX_BITS = 10_000  # of a product or a power
_STEP = "a step"  # a filter's name that no template can write
_REPEATED = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


class Generation(Extension):
    """``{% generation %}``: puts marks round what the model writes."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        self.environment.has_marks = True
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        begin, end = self.environment.marks
        return f"{begin}{caller()}{end}"


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template. It counts steps: turns of loops, calls of macros, the numbers of a ``range`` and
    the items that ``*`` repeats.

    Attributes:
        has_marks: whether there is a ``{% generation %}`` in the template.
        marks: what is written before and behind such a part; with a number drawn by lot, so that no text has it.
    """

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
        self.has_marks, self._number = False, f"{secrets.randbits(64):020}"
        # Noncharacters (https://www.unicode.org/faq/private_use.html#nonchar4) and digits, which no filter changes.
        self.marks = tuple(f"{letter}{self._number}{letter}" for letter in "\ufdd0\ufdd1")
        self._either_mark = re.compile(f"({'|'.join(self.marks)})")
        self.steps_left = MAX_STEPS
        self.filters[_STEP] = lambda _: self._spend(1)
        self.globals["range"] = self._range
        del self.globals["lipsum"]  # text drawn by lot, of any length

    def compiled(self, source: str) -> Template:
        """The template, with a step wherever something can be done again and again.

        A step is a filter, for a sandbox makes a call of anything else twenty times as slow.
        """
        tree = self.parse(source)
        for node in list(tree.find_all(_REPEATED)):
            step = nodes.Filter(nodes.EnvironmentAttribute("steps_left"), _STEP, [], [], None, None, lineno=node.lineno)
            if isinstance(node, nodes.For) and node.test is not None:  # it sees more items than the body does
                node.test = nodes.And(step, node.test, lineno=node.lineno)
            else:
                node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return self.from_string(tree.set_environment(self))

    def rendered(self, template: Template, variables: Mapping[str, Any]) -> tuple[str, list[Span]]:
        """What the template writes, and where in it that is what it marks."""
        self.steps_left = MAX_STEPS + STEPS_OF_A_PAIR * len(variables.get("messages", ())) ** 2
        written = template.render(**variables)
        if len(written) > MAX_CHARS:
            raise SecurityError(f"it writes {len(written):,} characters")
        return self._without_marks(written) if self.has_marks else (written, [])

    def _without_marks(self, written: str) -> tuple[str, list[Span]]:
        text, begins, spans = "", [], []
        for piece in self._either_mark.split(written):
            if piece == self.marks[0]:
                begins.append(len(text))
            elif piece == self.marks[1] and begins:
                spans.append((begins.pop(), len(text)))
            else:
                text += piece
        if begins or self._number in text:
            raise SecurityError("it takes what it marks with {% generation %} apart")
        return text, spans

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """A product or a power, unless it is out of all proportion."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MAX_BITS:
                raise SecurityError(f"{operator} makes a number of {bits:,} bits")
        elif operator == "*":
            self._spend(_repeated(left, right) + _repeated(right, left))
        return super().call_binop(context, operator, left, right)

    def _range(self, *bounds: int) -> range:
        numbers = safe_range(*bounds)
        self._spend(len(numbers))
        return numbers

    def _spend(self, steps: int) -> bool:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} steps (turns of loops) for so short a dialogue")
        return True


def _repeated(items: Any, times: Any) -> int:
    """How long a text or a list becomes that is repeated."""
    return len(items) * max(times, 0) if isinstance(items, (str, list, tuple)) and isinstance(times, int) else 0
