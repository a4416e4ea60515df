"""The code blocks of the guides, and what the HTML comment before a block says of it."""

import re
from dataclasses import dataclass
from pathlib import Path

_COMMENT = re.compile(r"^<!-- (needs|file|fails|output)(?:: (.+?))? -->$")
_FENCE = re.compile(r"^```(\w+)$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        needs: what a reader must have to run it as it stands; None if any machine will do.
        file: the name under which the reader saves it.
        fails: the exit code that the page says it ends with; 0 if it works.
        is_output: the text is what the block before prints.
    """

    page: Path
    line: int
    language: str
    text: str
    needs: str | None = None
    file: str | None = None
    fails: int = 0
    is_output: bool = False

    @property
    def commands(self) -> list[str]:
        """Shell commands, one per entry; lines that a backslash continues are joined, comments left out."""
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a Markdown file that have a language, in their order."""
    found: list[Block] = []
    said: dict[str, str] = {}
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        line = lines[number].strip()
        if comment := _COMMENT.match(line):
            said[comment[1]] = comment[2] or ""
        elif fence := _FENCE.match(line):
            end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() == "```")
            found.append(_block(page, number + 1, fence[1], lines[number + 1 : end], said))
            number, said = end, {}
        elif said:
            raise ValueError(f"{page}:{number + 1}: the comment {said} is not right before a block")
        number += 1
    return found


def _block(page: Path, line: int, language: str, body: list[str], said: dict[str, str]) -> Block:
    return Block(
        page,
        line,
        language,
        "\n".join(body) + "\n",
        needs=said.get("needs"),
        file=said.get("file"),
        fails=int(said.get("fails", 0)),
        is_output="output" in said,
    )
