"""Rows that cannot be used, through the builders: what is wrong, in which file and line, and how many there are."""

import json
import logging
import math

import datasets as hub
import pytest
from letters import Letters

from torchtune import datasets
from torchtune.datasets._prepare import Preparation
from torchtune.errors import ConfigError, DataError

GOOD = {"input": "Hi", "output": "Ho"}
DEEP, LONG = "[" * 5_000, "9" * 5_000  # JSON that Python does not read


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def rows(*found: dict, name: str = "rows.jsonl", raw: bytes | None = None) -> str:
        content = "".join(json.dumps(row) + "\n" for row in found).encode() if raw is None else raw
        (tmp_path / name).write_bytes(content)
        return name

    return rows


def instruct(source, **options):
    return datasets.instruct_dataset(Letters(), source=source, **options)


def alpaca(source, **options):
    return datasets.alpaca_dataset(Letters(), source=source, **options)


def openai(source, **options):
    return datasets.chat_dataset(
        Letters(), source=source, conversation_column="talk", conversation_style="openai", **options
    )


def sharegpt(source, **options):
    return datasets.slimorca_dataset(Letters(), source=source, **options)


def preference(source, **options):
    return datasets.preference_dataset(Letters(), source=source, **options)


def stack_exchange(source, **options):
    return datasets.stack_exchange_paired_dataset(Letters(), source=source, **options)


def completion(source, **options):
    return datasets.text_completion_dataset(Letters(), source, **options)


def turn(**of) -> dict:
    return {"talk": [{"role": "user", "content": "Hi"}, of]}


WRONG_ROWS = [
    (instruct, {"input": "Hi", "output": 7}, "is 7; expected a text"),
    (instruct, {"input": ["Hi"], "output": "Ho"}, r"is \['Hi'\]; expected a text"),
    (instruct, {"input": "Hi", "output": {"text": "Ho"}}, "expected a text"),
    (instruct, {"input": "Hi", "output": None}, r"'output' is empty \(null\)"),
    (
        instruct,
        {"input": "Hi", "outptu": "Ho"},
        "no 'output'; it has 'input', 'outptu'.* nearest to 'output' is 'outptu'",
    ),
    (alpaca, {"instruction": "Hi", "output": [1]}, r"is \[1\]; expected a text"),
    (alpaca, {"instruction": 3, "output": "Ho"}, "'instruction' is 3; expected a text"),
    (alpaca, {"instruction": "Hi", "input": [1], "output": "Ho"}, r"'input' is \[1\]; expected a text"),
    (alpaca, {"instruction": "Hi", "input": 0, "output": "Ho"}, "'input' is 0; expected a text"),
    (instruct, {}, r"no 'input'; it has nothing \(column_map"),
    (instruct, {"input": "Hi", "output": math.nan}, "'output' is nan; expected a text"),
    (alpaca, {"instrution": "Hi", "output": "Ho"}, "nearest to 'instruction' is 'instrution'"),
    (openai, {"talk": "Hi"}, "'talk' is 'Hi'; expected a list of turns, at least one, each an object"),
    (openai, {"talk": ["Hi"]}, "expected a list of turns"),
    (openai, {"talk": []}, r"'talk' is \[\]; expected a list of turns, at least one"),
    (openai, {"talk": {"role": "user", "content": "Hi"}}, "expected a list of turns"),
    (openai, {"talk": None}, r"'talk' is empty \(null\)"),
    (openai, turn(role="bot", content="Ho"), "turn 2 of 2 in 'talk': 'role' is 'bot'; expected one of system, user"),
    (
        openai,
        turn(role="assistant", content=3),
        "turn 2 of 2 in 'talk': 'content' is 3; expected a text or a list of parts",
    ),
    (openai, turn(**{"from": "gpt", "value": "Ho"}), "turn 2 of 2.*ShareGPT's form.*conversation_style: sharegpt"),
    (openai, turn(role="assistant", contents="Ho"), "no 'content'; it has 'role', 'contents'"),
    (sharegpt, {"conversations": [{"from": "robot", "value": "Ho"}]}, "'from' is 'robot'; expected one of system"),
    (sharegpt, {"conversations": [{"from": "human", "text": "Ho"}]}, "no 'value'; it has 'from', 'text'"),
    (sharegpt, {"conversation": []}, "nearest to 'conversations' is 'conversation'"),
    (preference, {"chosen": [{"role": "user", "content": "Hi"}]}, "no 'rejected'"),
    (preference, {"chosen": "Ho", "rejected": "Hm"}, "'chosen' is 'Ho'; expected a list of turns"),
    (openai, {"talk": [{"role": "user", "content": "Hi"}, 7]}, "turn 2 of 2 in 'talk': it is 7; expected an object"),
    (openai, turn(role="assistant", tool_calls=5), "turn 2 of 2 in 'talk': 'tool_calls' is 5; expected a list"),
    (openai, turn(role="assistant", tool_calls={"name": "f"}), "'tool_calls' is {'name': 'f'}; expected a list"),
    (openai, turn(role="assistant", tool_calls="no"), "'tool_calls' is no JSON"),
    (openai, turn(role="assistant", tool_calls=[{"name": 3}]), "the 'name' of a tool call is 3; expected a text"),
    (openai, turn(role="assistant", tool_calls=[{"name": "f", "arguments": DEEP}]), "'f' is JSON nested too deeply"),
    (openai, turn(role="assistant", tool_calls=[{"name": "f", "arguments": LONG}]), "'f' is JSON .* too long a number"),
    (openai, turn(role="assistant", content="Ho", thinking=[1]), r"'thinking' is \[1\]; expected a text"),
    (
        openai,
        turn(role="assistant", content="Ho", weight=["x" * 999]),
        r"it has {'weight': \['x{40,90}\.\.\.; expected",
    ),
    (openai, {"talk": DEEP}, r"'talk' is JSON nested too deeply, .*: '\[{90,100}\.\.\.$"),
    (completion, {"text": ["x" * 999]}, r"'text' is \['x{90,99}\.\.\.; expected a text"),
    (completion, {"text": ["Hi"]}, r"'text' is \['Hi'\]; expected a text"),
    (completion, {}, "no column 'text'; the columns are nothing"),
    (completion, {"txt": "Hi"}, "no column 'text'; the columns are 'txt'; nearest to 'text' is 'txt'"),
]
GOOD_ROWS = {
    instruct: GOOD,
    alpaca: {"instruction": "Hi", "output": "Ho"},
    openai: turn(role="assistant", content="Ho"),
    sharegpt: {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
    preference: {side: [{"role": "user", "content": "Hi"}] for side in ("chosen", "rejected")},
    completion: {"text": "Hi"},
}


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize(("build", "row", "message"), WRONG_ROWS)
def test_a_row_that_cannot_be_used_is_named_when_the_dataset_is_made(build, row, message, streaming, write):
    source = write(GOOD_ROWS[build], row)
    with pytest.raises(DataError, match=f"(?s)^rows.jsonl, line 2: .*{message}") as error:
        build(source, streaming=streaming)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("build", GOOD_ROWS)
def test_one_row_is_a_dataset(build, write):
    assert len(build(write(GOOD_ROWS[build]))) == 1
    assert len(list(build(write(GOOD_ROWS[build]), streaming=True))) == 1


def test_malformed_lines_are_counted_too(write):
    with pytest.raises(DataError) as error:
        instruct(write(raw=b'{"input": "Hi", "output": "Ho"}\n{\n{"input": "Hi"}\n\xff\n'))
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        f"rows.jsonl, line {line}{column}" for line, column in ((2, ", column 2"), (3, ""), (4, ""))
    ]


def test_many_wrong_rows_are_counted_and_each_kind_is_shown_once(write):
    with pytest.raises(DataError) as error:
        instruct(write(*[GOOD, {"input": "Hi"}] * 8, *({"input": "Hi", "output": i} for i in range(7))))
    shown = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in shown[:5]] == [
        "in 8 of 23 rows, first rows.jsonl, line 2",
        *(f"rows.jsonl, line {i}" for i in range(17, 21)),
    ]
    assert shown[5:] == ["... and 3 more rows"]
    with pytest.raises(
        DataError, match="^in at least 100 of 300 rows, first rows.jsonl, line 1: a row has no 'output'"
    ):
        instruct(write(*[{"input": "Hi"}] * 300))


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize(
    ("build", "row", "columns", "said"),
    [
        (alpaca, {"instruction": "Hi", "context": "C", "output": "Ho"}, {"input": "contxt"}, "nearest .* 'context'"),
        (sharegpt, {"system": "S"}, {"system": "sytem"}, "nearest .* is 'system'"),
        (sharegpt, {"functions": []}, {"tools": "fnctions"}, "nearest .* is 'functions'"),
        (openai, {"functions": []}, {"tools": "fnctions"}, "nearest .* is 'functions'"),
        (preference, {"asked": "Hi"}, {"prompt": "askd"}, "nearest .* is 'asked'"),
    ],
)
def test_a_column_that_only_the_config_names_is_found(build, row, columns, said, streaming, write):
    source = write(GOOD_ROWS[build], GOOD_ROWS[build] | row)
    with pytest.raises(DataError, match=rf"^rows.jsonl, line 1: column_map is .*\(2 looked at\).*{said}"):
        build(source, column_map=columns, streaming=streaming)
    assert build(source, column_map={name: next(iter(row)) for name in columns} if row != {"asked": "Hi"} else None)
    assert build(source, column_map={name: name for name in columns}), "its usual name may be absent"


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
def test_columns_that_are_not_used_are_named(streaming, write, caplog):
    row = {"id": 1, **GOOD_ROWS[alpaca], "history": [], "system": "S", "lang": "de"}
    source = write(GOOD_ROWS[alpaca], row, row)
    with caplog.at_level(logging.INFO):
        dataset = alpaca(source, streaming=streaming, filter_fn=lambda row: row.get("lang", "de") == "de")
    assert dataset.unused_columns == ["id", "history", "system"]
    assert "rows.jsonl, line 1: columns that are not used: id, history, system" in caplog.text
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "2 row(s) have something in the column 'system', which is not used" in warnings[0]


@pytest.mark.parametrize("row", [{"system": "S"}, {"history": [["a", "b"]]}])
def test_what_questions_and_answers_leave_out_is_warned_of(row, write, caplog):
    instruct(write(GOOD | row))
    assert f"1 row(s) have something in the column {next(iter(row))!r}" in caplog.text


def test_columns_that_are_used(write, caplog):
    row = GOOD_ROWS[sharegpt] | {"system": "S", "tools": []}
    with caplog.at_level(logging.INFO):
        assert sharegpt(write(row)).unused_columns == []
        assert (
            datasets.SFTDataset(
                source=write(GOOD),
                message_transform=lambda row: {"messages": [*row.values()]},
                model_transform=Letters(),
            ).unused_columns
            == []
        )
    assert not caplog.records
    assert sharegpt(write(row), column_map={"system": None, "tools": None}).unused_columns == ["system", "tools"]


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filter_fn": lambda row: row["nope"]}, "KeyError: no column 'nope'; the columns are 'input', 'output'"),
        ({"filter_fn": lambda row: row["output"] > 3}, "TypeError: '>' not supported"),
        ({"filter_fn": len, "filter_kwargs": {"input_columns": "outptu"}}, "'outptu'; .*nearest .* is 'output'"),
        ({"filter_fn": lambda row: 1 / 0}, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_filter_that_fails_is_told_with_the_row(options, said, streaming, write):
    name = "builtins.len" if options["filter_fn"] is len else "test_bad_input.<lambda>"
    with pytest.raises(DataError, match=f"^rows.jsonl, line 1: filter_fn {name} fails: .*{said}"):
        instruct(write(GOOD), streaming=streaming, **options)


FILES = [
    ("rows.jsonl", b"", "rows.jsonl holds no rows"),
    ("rows.json", b"[]", "rows.json holds no rows"),
    ("rows.csv", b"", "rows.csv is empty; expected a header line"),
    ("rows.csv", b"input,output\n", "rows.csv holds a header and no rows"),
    ("rows.csv", b"input,output\nHi\n", "rows.csv, line 2: 1 cells, and the header has 2"),
    ("rows.csv", b"input,outptu\nHi,Ho\n", "rows.csv, line 2: .* nearest to 'output' is 'outptu'"),
    ("rows.csv", b'input,output\n"a\nb","c\nd"\n\xff,x\n', "rows.csv, line 5: byte 0xff is not UTF-8"),
    (
        "rows.jsonl",
        b'{"input": "a", "output": "b"}\n{"input": "a" "output"}\n',
        "rows.jsonl, line 2, column 15: not valid",
    ),
    ("rows.json", b'[{"input": "a", "output": "b"},\n{"input"}]', "rows.json, line 2, column 9: not valid JSON"),
    ("rows.jsonl", b'{"input": "a", "output": "\xe4"}\n', "rows.jsonl, line 1: byte 0xe4 is not UTF-8"),
    ("rows.jsonl", b'{"n": %s}' % LONG.encode(), r"rows.jsonl, line 1: there is a number with more than [\d,]+ digits"),
    ("rows.json", b"[{},\n%s]" % LONG.encode(), "rows.json, line 2, item 2: there is a number with more than"),
    ("rows.json", b"[{},\n%s]" % DEEP.encode(), "rows.json, line 2, item 2: the JSON is nested too deeply"),
    (
        "rows.json",
        b"[[{}],\n[{}]]",
        "rows.json, line 1, item 1: expected an object, found a list; a dialogue stands below",
    ),
    ("rows.csv", b"input,output\ra,b\r", r"rows.csv, line 1: not valid CSV: a carriage return .* tr '\\r' '\\n'"),
    ("rows.csv", b'input,output\nHi,Ho\n"a,b\nc,d\n', "rows.csv, line 3: not valid CSV: a cell .* does not end"),
    ("rows.csv", b'input,output\n"a"b,c\n', "rows.csv, line 2: not valid CSV: text follows the quote"),
    (
        "rows.csv",
        b"a,a" + b",x" * 999,
        r"rows.csv, line 1: a column name stands twice in the header: a, a[, x]{,300}\.\.\.",
    ),
    ("rows.txt", b"\n", "rows.txt holds no text"),
    ("rows.parquet", b"PAR1", "rows.parquet is no Parquet file, or is damaged"),
]


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize(("name", "raw", "message"), FILES)
def test_a_file_that_cannot_be_used_is_named_with_the_line(name, raw, message, streaming, write):
    if streaming and name.endswith(".json"):
        message = "rows.json is one JSON value"
    elif streaming and (" holds " in message):
        message = rf"{name} \({len(raw)} bytes\): there are no rows"
    with pytest.raises(DataError, match=message):
        instruct(write(name=name, raw=raw), streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
def test_rows_of_mixed_types_in_parquet_are_told_apart(write, streaming, tmp_path):
    hub.Dataset.from_list([GOOD, {"input": "Hi", "output": None}]).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows.parquet, row 2: .*'output' is empty"):
        instruct("rows.parquet", streaming=streaming)


def test_samples_that_are_as_long_as_they_may_be_are_counted(write, caplog):
    class Cutting(Letters):
        def __call__(self, sample, inference=False):
            return {key: value[: self.max_seq_len] for key, value in super().__call__(sample).items()}

    dataset = datasets.instruct_dataset(Cutting(6), source=write(GOOD, {"input": "Hi", "output": "Ho" * 9}, GOOD))
    with caplog.at_level(logging.INFO):
        dataset.prepare(Preparation(workers=0))
    assert "1 of 3 samples fill max_seq_len, 6 tokens; longer ones are cut" in caplog.text


@pytest.mark.parametrize(
    ("build", "columns", "message"),
    [
        (instruct, {"input": ["a"], "output": "b"}, r"column_map.input is \['a'\]; expected a column's name"),
        (
            instruct,
            {"input": "a", "output": 3},
            r"column_map.output is 3; expected a column's name \(a number in quotes",
        ),
        (instruct, {"input": "a", 1: "b"}, r"column_map has the entries \['1', 'input'\]; expected input, output"),
        (alpaca, {"input": {"a": 1}}, "column_map.input is {'a': 1}"),
        (sharegpt, {"conversations": "a", "system": 2}, "column_map.system is 2"),
        (stack_exchange, {"prompt": ["a"]}, "column_map.prompt is"),
        (stack_exchange, {"prompt": "a", 1: "b", "c": "d"}, "column_map has the entries 1, c"),
    ],
)
def test_columns_are_named_by_texts(build, columns, message, write):
    with pytest.raises(ConfigError, match=message):
        build(write(GOOD), column_map=columns)
