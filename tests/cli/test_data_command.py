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
from torchtune.data import StepLoader
from torchtune.errors import DataError


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
        assert "off: batches of 2 are padded. With dataset.packed: True, packs of 320 tokens" in one_line
        assert re.search(r"unpacked 9 samples \d+\.\d% filled <- as it is best fit \d packs? \d+\.\d% filled", one_line)


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
    assert tune("data", config(sharegpt(tmp_path) | {"packed": True}), "--samples", "1", "batch_size=1") == 0
    out = capsys.readouterr().out
    assert "samples  2 packs of 320 tokens" in out
    [(rows, padding)] = re.findall(r"=== dataset, pack 1 of 2: (\d) rows.*--- (\d+) tokens of padding", out, re.DOTALL)
    tokens = [int(count) for count in re.findall(r"--- talks.jsonl, line \d: (\d+) tokens", out)]
    assert len(tokens) == int(rows) and sum(tokens) + int(padding) == 320


def test_too_few_samples_for_a_step_are_an_error_as_in_a_run(config, tmp_path, capsys):
    assert tune("data", config(sharegpt(tmp_path)), "batch_size=5", "--html", "page.html") == 3
    out, err = capsys.readouterr()
    said = "the dataset has 9 samples (packs, when packed), and one optimizer step needs 10: batch_size 5 x"
    assert f"  error   {said}" in out and "nothing found" not in out and "1 error" in err
    page = Path("page.html").read_text()
    assert f"<div class='box error'><span class='label'>Error</span> {said}" in page and "Nothing found" not in page
    with pytest.raises(DataError, match=re.escape(said)):
        StepLoader([{}] * 9, batch_size=5, gradient_accumulation_steps=2, collate_fn=list, seed=0, shuffle=False)
    assert tune("data", config(sharegpt(tmp_path)), "batch_size=2", "dataset.packed=True") == 3
    assert "error   the dataset has 2 samples (packs, when packed)" in capsys.readouterr().out


def test_too_few_packs_by_a_part_of_the_rows_is_no_more_than_a_note(config, tmp_path, capsys):
    assert tune("data", config(sharegpt(tmp_path)), "dataset.packed=True", "--most", "5") == 0
    assert "  note    By the rows that were looked at, the dataset has 2 samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["max_steps=7"], "max_steps ends the run after 7 steps"),
        (["max_steps_per_epoch=1"], "max_steps_per_epoch ends an epoch after 1 step"),
        ([], "a run of it needs max_steps or max_steps_per_epoch"),
    ],
)
def test_how_long_a_stream_is_trained_on(config, tmp_path, capsys, words, said):
    assert tune("data", config(sharegpt(tmp_path)), "dataset.streaming=True", *words) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_stream_that_ends_before_its_first_step(config, tmp_path, capsys):
    assert tune("data", config(sharegpt(tmp_path)), "dataset.streaming=True", "max_steps=1", "batch_size=20") == 3
    assert "error   the stream has fewer samples (packs, when packed) than a step: 40" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["data", "validate"])
def test_options_and_settings_in_any_order(config, tmp_path, capsys, command):
    name = config(sharegpt(tmp_path))
    option = {"data": ["--samples", "1"], "validate": ["--recipe", "full_finetune_single_device"]}[command]
    for words in ([name, *option, "seed=1"], [*option, name, "seed=1"], [name, "seed=1", *option, "epochs=1"]):
        assert tune(command, *words) == 0


def test_what_a_mixture_takes_of_each_dataset(config, tmp_path, capsys):
    both = [sharegpt(tmp_path) | {"weight": 1}, table(tmp_path) | {"weight": 3}]
    assert tune("data", config(both), "--html", "page.html") == 0
    out, page = capsys.readouterr().out, Path("page.html").read_text()
    assert "Mixture: an epoch is 36 samples long and has every sample (mixture_stop: all_exhausted)" in out
    assert re.search(r"dataset\[0\]  weight 1  9 samples, 25.0% +each sample once", out)
    assert re.search(r"dataset\[1\]  weight 3  27 samples, 75.0% +each sample 3.0 times", out)
    assert "<td>27 samples, 75.0%</td><td>each sample 3.0 times</td>" in page and "mixture_stop: all_exhausted" in page
    assert tune("data", config(both), "mixture_stop=first_exhausted", "--json") == 0
    mixture = json.loads(capsys.readouterr().out)["mixture"]
    assert (mixture["stop"], mixture["samples"]) == ("first_exhausted", 12)
    assert mixture["sources"][0] == {
        "name": "dataset[0]", "weight": 1.0, "share": 0.25, "samples": 3, "times": pytest.approx(1 / 3),
    }  # fmt: skip


def test_a_mixture_of_streams_has_shares_and_no_counts(config, tmp_path, capsys):
    both = [sharegpt(tmp_path) | {"weight": 1, "streaming": True}, table(tmp_path) | {"weight": 3, "streaming": True}]
    assert tune("data", config(both), "max_steps=3") == 0
    assert "dataset[1]  weight 3  75.0% of the samples" in capsys.readouterr().out


def test_columns_that_are_not_used(config, tmp_path, capsys):
    dataset = sharegpt(tmp_path)
    _jsonl(tmp_path / "talks.jsonl", [{"conversations": dialogue(i), "rating": i, "source": "x"} for i in range(9)])
    assert tune("data", config(dataset | {"packed": True}), "batch_size=1") == 0
    assert "  columns  used: conversations, not used: rating, source" in capsys.readouterr().out
    assert tune("data", config(dataset), "--json") == 0
    [part] = json.loads(capsys.readouterr().out)["parts"]
    assert part["columns"] == {"used": ["conversations"], "unused": ["rating", "source"]}


def test_files_that_are_left_out_are_in_the_report(config, tmp_path, capsys):
    (tmp_path / "fold").mkdir()
    for name in ("train", "extra"):
        _jsonl(tmp_path / "fold" / f"{name}.jsonl", [{"conversations": dialogue(i)} for i in range(9)])
    assert tune("data", config(sharegpt(tmp_path) | {"source": "fold"}), "--html", "page.html") == 0
    out, err = capsys.readouterr()
    assert "note    left out 1 file(s) whose names have no word for a split" in out and "left out" not in err
    assert "left out 1 file(s)" in Path("page.html").read_text()


def test_what_cannot_be_seen_is_written_out_on_the_page(config, tmp_path):
    dataset = sharegpt(tmp_path)
    hidden = "\x00\x1b[2J\x07\r\u202e\u200b\u2028"
    talk = [{"from": "human", "value": hidden}, {"from": "gpt", "value": "Yes."}]
    _jsonl(tmp_path / "talks.jsonl", [{"conversations": talk}] * 4)
    assert tune("data", config(dataset), "--html", "page.html") == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert not set(hidden) - set("[2J") & set(page) and "unicode-bidi: isolate" in page
    assert all(f"<span class='h'>{name}</span>" in page for name in (r"\x00", r"\x1b", r"\u202e", r"\u2028"))


def test_a_narrow_terminal(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    dataset = [sharegpt(tmp_path) | {"weight": 1}, table(tmp_path) | {"weight": 3}]
    for columns, widest in (("40", 40), ("20", 40), ("70", 70), ("300", 110)):
        monkeypatch.setenv("COLUMNS", columns)
        assert tune("data", config(dataset), "batch_size=20", "--samples", "0") == 3
        counts = capsys.readouterr().out.partition("\nSamples: ")[0].splitlines()[1:]
        assert widest - 25 < max(map(len, counts)) <= widest


def test_one_is_no_plural(config, tmp_path, capsys):
    dataset = table(tmp_path)
    (tmp_path / "table.csv").write_text("ask,say\nQ,A\n")
    assert tune("data", config(dataset), "batch_size=1", "gradient_accumulation_steps=1", "--html", "page.html") == 0
    for text in (capsys.readouterr().out, Path("page.html").read_text()):
        assert "1 sample /" in text and not re.search(r"\b1 (rows|samples|tokens|packs)\b", text)


def test_the_title_of_the_page_is_short(config, tmp_path):
    name = config(sharegpt(tmp_path))
    assert tune("data", str(tmp_path / name), "--html", "page.html") == 0
    page = Path("page.html").read_text()
    assert "<h1>Data of config.yaml</h1>" in page and f'<p class="quiet">{tmp_path / name}</p>' in page


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
    one_line = " ".join(out.split())
    assert "9 rows (100.0%) are cut at 150 tokens (tokenizer.max_seq_len), 9 of them within what is" in one_line
    assert "all of what is to be learnt in 9 rows" in one_line and "--- cut here, at 150 tokens" in out
    assert "training would not begin: the report gives 1 error\n" in err and "Traceback" not in err
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
    assert "error   dataset: sample 1 has" in capsys.readouterr().out


def test_all_rows_that_cannot_be_used_are_counted(config, tmp_path, capsys):
    dataset = sharegpt(tmp_path)
    rows = [{"conversations": dialogue(i)} for i in range(30)]
    for row in rows[3:20]:
        row["conversations"][0]["from"] = "robot"
    _jsonl(tmp_path / "talks.jsonl", rows)
    assert tune("data", config(dataset)) == 3
    err = capsys.readouterr().err
    assert re.search(
        "in 17 of 30 rows, first .*talks.jsonl, line 4: turn 1 of . in 'conversations': 'from' is 'robot'", err
    )


def test_rows_that_the_tokenizer_refuses_are_counted(config, tmp_path, capsys):
    """A template that has no place for a system message says so only when the row is tokenised."""
    dataset = sharegpt(tmp_path)
    rows = [{"conversations": [{"from": "system", "value": "s"}, *dialogue(i)]} for i in range(8)]
    _jsonl(tmp_path / "talks.jsonl", rows[:7] + [{"conversations": dialogue(9)}])
    name = config(dataset)
    refuses = "tokenizer.prompt_template=torchtune.models.mistral.MistralChatTemplate"
    assert tune("data", name, refuses) == 3
    err = capsys.readouterr().err
    assert re.search("in 7 of 8 rows, first .*talks.jsonl, line 1: MistralChatTemplate has no place", err)


@pytest.mark.parametrize(
    "words, said",
    [
        (["nowhere.yaml"], "There is no config 'nowhere.yaml'"),
        (["config.yaml", "batchsize=3"], "Did you mean 'batch_size'?"),
        (["config.yaml", "data_checks.no_targets=off"], "Did you mean 'no_target'?"),
        (["config.yaml", "--rows", "0"], "rows are counted from 1"),
        (["config.yaml", "--rows", "10"], "there is no row 10 to show; there are 9"),
        (["config.yaml", "--samples", "few"], "'few' is not a whole number"),
        (["config.yaml", "--most", "0"], "at least 1 row is looked at"),
        (["config.yaml", "~dataset"], "dataset"),
        (["config.yaml", "--html", "nowhere/page.html"], "--html nowhere/page.html: there is no folder nowhere"),
        (["config.yaml", "--html", "."], "--html . is a folder; name a file, such as data.html"),
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
