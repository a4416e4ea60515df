"""What is left of a dialogue that is longer than the tokenizer's limit."""


def cut_at_right(tokens: list[int], mask: list[bool], limit: int, eos_id: int) -> tuple[list[int], list[bool]]:
    """An end token stands in for the rest and is not trained on, unless the dialogue has one there of its own."""
    is_forced = tokens[limit - 1] != eos_id
    return [*tokens[: limit - 1], eos_id], [*mask[: limit - 1], is_forced or mask[limit - 1]]
