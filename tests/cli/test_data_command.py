"""`tune data`: what it shows of each kind of data, in the terminal, as a page and as JSON, and how it ends."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from tiny_run import TinyRun

from torchtune.cli import main


def tune(*arguments: str) -> int:
    """Runs the command in this process and gives its exit code."""
    try:
        main(arguments)
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> TinyRun:
    return TinyRun(tmp_path_factory.mktemp("tiny"))


def dialogue(number: int) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"Question {number}?"}, {"from": "gpt", "value": f"Answer {number}."}]


def _csv(path: Path) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["ask", "say"], *([f"Question {i}?", f"Answer {i}."] for i in range(9))])


def _jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _openai(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": {"human": "user", "gpt": "assistant"}[t["from"]], "content": t["value"]} for t in turns]


def alpaca(folder: Path) -> dict:
    rows = [{"instruction": f"Question {i}?", "input": "", "output": f"Answer {i}."} for i in range(9)]
    (folder / "alpaca.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return {"_component_": "torchtune.datasets.alpaca_dataset", "source": "alpaca.json", "train_on_input": False}


def sharegpt(folder: Path) -> dict:
    _jsonl(folder / "talks.jsonl", [{"conversations": dialogue(i)} for i in range(9)])
    how = {"conversation_column": "conversations", "conversation_style": "sharegpt"}
    return {"_component_": "torchtune.datasets.chat_dataset", "source": "talks.jsonl", **how}


def table(folder: Path) -> dict:
    _csv(folder / "table.csv")
    columns = {"input": "ask", "output": "say"}
    return {"_component_": "torchtune.datasets.instruct_dataset", "source": "table.csv", "column_map": columns}


def text(folder: Path) -> dict:
    (folder / "plain.txt").write_text("".join(f"Line {i} of a text\n" for i in range(9)))
    return {"_component_": "torchtune.datasets.text_completion_dataset", "source": "plain.txt"}


def pairs(folder: Path) -> dict:
    rows = [{"chosen": _openai(dialogue(i)), "rejected": _openai(dialogue(i))[:1]} for i in range(9)]
    for i, row in enumerate(rows):
        row["rejected"].append({"role": "assistant", "content": f"No, {i}."})
    _jsonl(folder / "pairs.jsonl", rows)
    return {"_component_": "torchtune.datasets.preference_dataset", "source": "pairs.jsonl"}


# What makes the data, what is trained on in row 5, and its file and line.
HEADER = "<|start_header_id|>assistant<|end_header_id|>↵\n↵\n"
KINDS = {
    "alpaca": (alpaca, f"⟦{HEADER}Answer 4.<|eot_id|>⟧", "alpaca.json, line 6"),
    "sharegpt": (sharegpt, f"⟦{HEADER}Answer 4.<|eot_id|>⟧", "talks.jsonl, line 5"),
    "csv": (table, f"⟦{HEADER}Answer 4.<|eot_id|>⟧", "table.csv, line 6"),
    "text": (text, "⟦Line 4 of a text<|end_of_text|>⟧", "plain.txt, line 5"),
    "pairs": (pairs, f"⟦{HEADER}No, 4.<|eot_id|>⟧", "pairs.jsonl, line 5"),
}


@pytest.fixture
def config(tiny, tmp_path, monkeypatch):
    """Writes the tiny config with another dataset, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def write(dataset: dict | list, **keys) -> str:
        content = yaml.safe_load(tiny.config.read_text()) | {"dataset": dataset, **keys}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        return "config.yaml"

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_is_shown(kind, config, tmp_path, capsys):
    make, trained, where = KINDS[kind]
    assert tune("data", config(make(tmp_path)), "--rows", "5") == 0
    out = capsys.readouterr().out
    assert trained in out and where in out
    assert "rows     9, all looked at" in out and "Checks before training: nothing found" in out
    assert "cut      nothing: no row is longer than 320 tokens" in out
    assert "Steps per epoch: 2 in one process: 9 samples / (batch_size 2 x gradient_accumulation_steps 2)" in out
    assert out.count("--- dataset") == (2 if kind == "pairs" else 1)
    if kind == "pairs":
        assert "dataset (chosen)" in out and f"⟦{HEADER}Answer 4.<|eot_id|>⟧" in out
    else:
        one_line = " ".join(out.split())
        assert re.search(r"With packed: True into 320 tokens by best fit: \d packs?, \d+\.\d% filled; by", one_line)


def test_the_demo(capsys, tmp_path):
    page = tmp_path / "demo.html"
    assert tune("data", "demo", "--samples", "1", "--html", str(page)) == 0
    out, err = capsys.readouterr()
    assert "rows     4,000, all looked at" in out and '⟦<|assistant|>{"answer": ' in out
    assert f"Written to {page}" in err and page.stat().st_size < 20_000


def test_samples_are_drawn_by_the_seed(config, tmp_path, capsys):
    name = config(sharegpt(tmp_path))

    def shown(*options: str) -> list[str]:
        assert tune("data", name, *options) == 0
        return re.findall(r"row (\d+):", capsys.readouterr().out)

    assert len(shown()) == 3 and shown() == shown("--seed", "0") != shown("--seed", "5")
    assert shown("--samples", "0") == [] and len(shown("--samples", "99")) == 9
    assert shown("--rows", "9,1,4") == ["9", "1", "4"]


def test_packs_have_their_boundaries(config, tmp_path, capsys):
    assert tune("data", config(sharegpt(tmp_path) | {"packed": True}), "--samples", "1") == 0
    out = capsys.readouterr().out
    assert "samples  2 packs of 320 tokens" in out
    [(rows, padding)] = re.findall(r"=== dataset, pack 1 of 2: (\d) rows.*--- (\d+) tokens of padding", out, re.DOTALL)
    tokens = [int(count) for count in re.findall(r"--- talks.jsonl, line \d: (\d+) tokens", out)]
    assert len(tokens) == int(rows) and sum(tokens) + int(padding) == 320


def test_some_rows_of_many(config, tmp_path, capsys):
    assert tune("data", config(sharegpt(tmp_path)), "--most", "4") == 0
    assert "rows     9; what follows is about 4 of them, drawn at random (--most)" in capsys.readouterr().out


def test_several_datasets_and_validation(config, tmp_path, capsys):
    both = [sharegpt(tmp_path) | {"weight": 1}, table(tmp_path) | {"weight": 3}]
    assert tune("data", config(both, dataset_val=alpaca(tmp_path)), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [part["name"] for part in report["parts"]] == ["dataset[0]", "dataset[1]", "dataset_val"]
    assert report["parts"][1]["source"] == "instruct_dataset, table.csv"
    assert report["steps"]["samples"] == 36  # the heavier one has all of its 9 rows three times


def test_json_has_all_of_it(config, tmp_path, capsys):
    assert tune("data", config(sharegpt(tmp_path)), "--rows", "2", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    [part] = report["parts"]
    assert part["facts"]["rows"] == 9 and part["facts"]["trained"] < part["facts"]["tokens"]
    [document] = part["samples"][0]["documents"]
    assert document["pieces"][0] == {"text": "<|begin_of_text|>", "ids": [256], "trained": False, "special": True}
    assert (report["findings"], report["errors"], report["steps"]["per_epoch"]) == ([], [], 2)


class Page(HTMLParser):
    """Checks that tags close, and collects the words in each kind of token."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.tokens = [], set(), {"t": "", "m": ""}
        self.addresses, self.titles = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("meta", "br"):
            self.open.append((tag, dict(attrs).get("class", "")))
        self.addresses += [value for name, value in attrs if name in ("src", "href", "style") and "width" not in value]
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.titles and self.open and self.open[-1][1].split(" ")[0] in self.tokens:
            self.tokens[self.open[-1][1].split(" ")[0]] += data


def test_the_page_stands_alone_and_says_what_is_trained(config, tmp_path, capsys):
    rows = [{"conversations": dialogue(i)} for i in range(4)]
    rows[1]["conversations"][0]["value"] = "<script>alert(1)</script> & \"so\" 'on' </div>"
    dataset = sharegpt(tmp_path)
    _jsonl(tmp_path / "talks.jsonl", rows)
    assert tune("data", config(dataset), "--rows", "2", "--html", "page.html") == 0
    text = Path("page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe"} and page.addresses == [] and "//" not in text
    assert "<script>alert(1)</script> & \"so\" 'on' </div>" in page.tokens["m"]
    assert page.tokens["t"] == "<|start_header_id|>assistant<|end_header_id|>\n\nAnswer 1.<|eot_id|>"
    assert page.titles[0] == "256, masked" and page.titles[-1] == "257, masked" and "262, trained" in page.titles
    for words in (
        "the model learns to write this",
        "the model only reads this",
        "How long the rows are",
        "Nothing found",
    ):
        assert words in text


@pytest.mark.parametrize("plain", [False, True])
def test_colours_only_in_a_terminal_that_wants_them(config, tmp_path, capsys, monkeypatch, plain):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1") if plain else monkeypatch.delenv("NO_COLOR", raising=False)
    assert tune("data", config(table(tmp_path)), "--rows", "1") == 0
    out = capsys.readouterr().out
    assert ("\x1b[32mA\x1b[0m" in out, "⟦" in out) == (not plain, plain)


def test_what_training_would_refuse_is_shown_and_ends_with_its_code(config, tmp_path, capsys):
    tokenizer = yaml.safe_load(Path(config(alpaca(tmp_path))).read_text())["tokenizer"] | {"max_seq_len": 150}
    assert tune("data", config(alpaca(tmp_path), tokenizer=tokenizer), "--html", "page.html") == 3
    out, err = capsys.readouterr()
    assert "error   cut_answer: 9 of 9 samples of dataset are cut at 150 tokens" in out
    assert "9 rows (100.0%) are longer than 150 tokens" in out and "all of what is to be learnt in 9 rows" in out
    assert "training would not begin" in err and "Traceback" not in err
    assert "Training would not begin" in Path("page.html").read_text()
    assert tune("data", config(alpaca(tmp_path), tokenizer=tokenizer), "data_checks.cut_answer=off") == 0


def test_samples_longer_than_a_pack(config, tmp_path, capsys):
    (tmp_path / "own_data.py").write_text(
        "from torchtune.datasets import PackedDataset, instruct_dataset\n"
        "def packs(tokenizer, **rest):\n"
        "    return PackedDataset(instruct_dataset(tokenizer, **rest), max_seq_len=20)\n"
    )
    dataset = table(tmp_path) | {"_component_": "own_data.packs"}
    assert tune("data", config(dataset)) == 3
    assert "error   dataset: sample 0 has" in capsys.readouterr().out


def test_all_rows_that_cannot_be_used_are_counted(config, tmp_path, capsys):
    dataset = sharegpt(tmp_path)
    rows = [{"conversations": dialogue(i)} for i in range(30)]
    for row in rows[3:20]:
        row["conversations"][0]["from"] = "robot"
    _jsonl(tmp_path / "talks.jsonl", rows)
    assert tune("data", config(dataset)) == 3
    err = capsys.readouterr().err
    assert "talks.jsonl, line 4: a turn is from 'robot'" in err and "... and 12 more rows" in err


def test_rows_that_the_tokenizer_refuses_are_counted(config, tmp_path, capsys):
    """A template that has no place for a system message says so only when the row is tokenised."""
    dataset = sharegpt(tmp_path)
    rows = [{"conversations": [{"from": "system", "value": "s"}, *dialogue(i)]} for i in range(8)]
    _jsonl(tmp_path / "talks.jsonl", rows[:7] + [{"conversations": dialogue(9)}])
    name = config(dataset)
    refuses = "tokenizer.prompt_template=torchtune.models.mistral.MistralChatTemplate"
    assert tune("data", name, refuses) == 3
    err = capsys.readouterr().err
    assert "talks.jsonl, line 1: MistralChatTemplate has no place" in err and "... and 2 more rows" in err


@pytest.mark.parametrize(
    "words, said",
    [
        (["nowhere.yaml"], "There is no config 'nowhere.yaml'"),
        (["config.yaml", "batchsize=3"], "Did you mean 'batch_size'?"),
        (["config.yaml", "data_checks.no_targets=off"], "Did you mean 'no_target'?"),
        (["config.yaml", "--rows", "0"], "rows are counted from 1"),
        (["config.yaml", "--rows", "10"], "there is no row 10 to show; there are 9"),
        (["config.yaml", "--samples", "few"], "'few' is not a whole number"),
        (["config.yaml", "~dataset"], "dataset"),
    ],
)
def test_faults_of_the_command_line(config, tmp_path, capsys, words, said):
    config(sharegpt(tmp_path))
    assert tune("data", *words) == 2
    assert said in capsys.readouterr().err


def test_a_config_without_a_recipe_needs_only_tokenizer_and_data(config, tmp_path, capsys):
    name = config(pairs(tmp_path))
    content = yaml.safe_load(Path(name).read_text())
    Path(name).write_text(yaml.safe_dump({key: content[key] for key in ("tokenizer", "dataset")} | {"beta": 0.1}))
    assert tune("data", name) == 0
    out, err = capsys.readouterr()
    assert "dataset (rejected)" in out and "Note: the config does not say its recipe" in err
    Path(name).write_text(yaml.safe_dump({"dataset": content["dataset"]}))
    assert tune("data", name) == 2
    assert "the config lacks 'tokenizer'" in capsys.readouterr().err
