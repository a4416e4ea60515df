"""Where chat templates run: they reach nothing but what they are given, and do and make no more than so much."""

import operator
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce, wraps
from itertools import islice
from typing import Any

from jinja2 import Template, nodes, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import markup_join
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from markupsafe import soft_str

from torchtune.modules.transforms.tokenizers._chat_template import Span
from torchtune.modules.transforms.tokenizers._counted_syntax import LIST, REMAINDER, STEP, SUM, TEXTS, counted
from torchtune.modules.transforms.tokenizers._growth import GROWING_FILTERS, most_of, most_of_call, weight

MAX_STEPS = 1_000_000
STEPS_OF_A_PAIR = 10  # of messages, in addition; Gemma 4's and gpt-oss's templates take one or two of them
MAX_CHARS = 100_000_000
CHARS_OF_A_PAIR = 1_000  # likewise, for templates that put the dialogue together piece by piece
_MAX_BITS = 10_000  # of a product or a power
_PIECES = 64  # of a text, counted together


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
    """The environment of one template. It counts steps: turns of loops, calls of macros, the numbers of a ``range``,
    the items that ``*`` repeats and those of lists. And it counts the characters of the texts that are made.

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
        self.steps_left, self.chars_left = MAX_STEPS, MAX_CHARS
        self.filters |= {
            STEP: lambda _: self._spend(1),
            SUM: self._sum,
            TEXTS: self._texts,
            REMAINDER: self._remainder,
            LIST: self._list,
        }
        self.concat = self._concat  # Jinja's name for what puts a text together
        self.globals["range"] = self._range
        del self.globals["lipsum"]  # text drawn by lot, of any length

    def compiled(self, source: str) -> Template:
        """The template, which counts what it does and makes."""
        self.filters |= {name: self._judged(name, self.filters[name]) for name in GROWING_FILTERS}
        return self.from_string(counted(self.parse(source)).set_environment(self))

    def rendered(self, template: Template, variables: Mapping[str, Any]) -> tuple[str, list[Span]]:
        """What the template writes, and where in it that is what it marks."""
        pairs = len(variables.get("messages", ())) ** 2
        self.steps_left = MAX_STEPS + STEPS_OF_A_PAIR * pairs
        self.chars_left = MAX_CHARS + CHARS_OF_A_PAIR * pairs
        written = template.render(**variables)
        return self._without_marks(written) if self.has_marks else (written, [])

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """What a function or a method gives, unless it can be out of all proportion."""
        self._allow(most_of_call(function, args, kwargs, MAX_STEPS))
        if function in (dict, Namespace):
            self._list((args, kwargs))
        return self._made(super().call(context, function, *args, **kwargs))

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

    def _judged(self, name: str, made_by: Callable) -> Callable:
        """The filter, which makes nothing that is out of all proportion."""
        first = int(hasattr(made_by, "jinja_pass_arg"))

        @wraps(made_by)
        def judged(*args: Any, **kwargs: Any) -> Any:
            value, *given = args[first:]
            value = list(value) if isinstance(value, Iterator) else value
            named = (kwargs[key] for key in sorted(kwargs, reverse=True))  # "old" before "new"
            self._allow(most_of(name, value, *given, *named, most_items=MAX_STEPS))
            return self._made(made_by(*args[:first], value, *given, **kwargs))

        return judged

    def _sum(self, *terms: Any) -> Any:
        if all(type(term) is str for term in terms):
            return self._concat(terms)
        self._spend(sum(len(term) for term in terms if isinstance(term, (list, tuple))))
        self._spend_chars(sum(len(term) for term in terms if isinstance(term, (str, bytes))))
        return reduce(operator.add, terms)

    @pass_eval_context
    def _texts(self, eval_ctx: Any, *values: Any) -> str:
        texts = list(map(soft_str if eval_ctx.autoescape else str, values))
        self._spend_chars(sum(map(len, texts)))
        return markup_join(texts) if eval_ctx.autoescape else "".join(texts)

    def _remainder(self, left: Any, right: Any) -> Any:
        if type(left) is int:
            return left % right
        self._allow(most_of("format", left, right, most_items=MAX_STEPS))
        return self._made(left % right)

    def _list(self, found: Any) -> Any:
        items, chars = weight(found, most_items=MAX_STEPS)
        self._spend(items)
        self._spend_chars(chars)
        return found

    def _concat(self, pieces: Iterable[str]) -> str:
        left, kept = iter(pieces), []
        while some := list(islice(left, _PIECES)):
            self._spend_chars(sum(map(len, some)))
            kept += some
        return "".join(kept)

    def _made(self, made: Any) -> Any:
        if isinstance(made, str):
            self._spend_chars(len(made))
        return made

    def _spend_chars(self, chars: int) -> None:
        self._allow(chars)
        self.chars_left -= chars

    def _allow(self, chars: int) -> None:
        if chars > self.chars_left:
            raise SecurityError(f"it makes texts or lists of more than {MAX_CHARS:,} characters")

    def _spend(self, steps: int) -> bool:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} steps (turns of loops) for so short a dialogue")
        return True


def _repeated(items: Any, times: Any) -> int:
    """How long a text or a list becomes that is repeated."""
    return len(items) * max(times, 0) if isinstance(items, (str, list, tuple)) and isinstance(times, int) else 0
