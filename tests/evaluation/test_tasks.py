"""Names of tasks, data that cannot be read, and what is written of the results."""

import builtins
import json
import random
import shutil
import time
from importlib.metadata import version

import pytest
import yaml

from torchtune.errors import ConfigError, DataError, MissingDependency
from torchtune.evaluation import evaluate, load_tasks, results_table, save_results
from torchtune.models.llama3 import llama3_tokenizer


@pytest.fixture(scope="session")
def tokenizer(folder):
    return llama3_tokenizer(str(folder / "tokenizer.json"))


@pytest.fixture
def few_defaults(tmp_path, tasks, monkeypatch):
    """lm_eval with three tasks of its own: reading all takes seconds."""
    import lm_eval.tasks.manager

    own = tmp_path / "own"
    own.mkdir()
    content = yaml.safe_load((tasks / "choice.yaml").read_text())
    for name in ("hellaswag", "truthfulqa_mc1", "truthfulqa_mc2"):
        (own / f"{name}.yaml").write_text(yaml.safe_dump(content | {"task": name}))
    monkeypatch.setattr(lm_eval.tasks.manager, "__file__", str(own / "manager.py"))


def test_unknown_names_are_refused_with_the_nearest(few_defaults, tasks):
    with pytest.raises(ConfigError) as refused:
        load_tasks(["helaswag", "choice", "truthfulqa", "zzz"], str(tasks))
    lines = str(refused.value).splitlines()
    assert lines[0] == "tasks: lm_eval has no task 'helaswag'. Did you mean hellaswag?"
    assert lines[1].endswith("Did you mean truthfulqa_mc2 or truthfulqa_mc1?")
    assert lines[2] == "tasks: lm_eval has no task 'zzz'." and "`lm_eval ls tasks`" in lines[3]


def test_own_tasks_stand_beside_lm_evals(few_defaults, tasks):
    assert set(load_tasks(["choice"], str(tasks))["tasks"]) == {"choice"}
    assert set(load_tasks(["choice", "hellaswag"], str(tasks))["tasks"]) == {"choice", "hellaswag"}
    assert set(load_tasks([str(tasks / "joined.yaml"), "hellaswag"])["tasks"]) == {"joined", "hellaswag"}


def test_a_folder_of_tasks_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="include_path: there is no folder .*nowhere"):
        load_tasks(["choice"], str(tmp_path / "nowhere"))


def test_lm_eval_is_asked_for_where_it_is_missing(monkeypatch):
    true_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "lm_eval":
            raise ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval")
        return true_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match='pip install "lm_eval>=0.4.13,<0.5"'):
        load_tasks(["choice"])


@pytest.mark.parametrize(
    "source, message",
    [
        ({"dataset_path": "somebody/data"}, "HF_HUB_OFFLINE is set, so only data that is in the cache already"),
        ({"dataset_path": "json", "dataset_kwargs": {"data_files": "/nowhere/rows.json"}}, "/nowhere/rows.json"),
    ],
)
def test_data_that_cannot_be_read(tmp_path, source, message):
    content = {"task": "far", "output_type": "loglikelihood_rolling", "test_split": "train", "doc_to_target": "a"}
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(content | source))
    with pytest.raises(DataError, match=message) as refused:
        load_tasks(["far"], str(tmp_path))
    assert str(refused.value).startswith("the data of far cannot be read: ")


@pytest.mark.parametrize("key, message", [("unsafe_code", "confirm_run_unsafe_code: True"), ("doc_to_image", "images")])
def test_tasks_that_need_leave_or_images(tasks, tmp_path, key, message):
    content = yaml.safe_load((tasks / "answer.yaml").read_text())
    (tmp_path / "answer.yaml").write_text(yaml.safe_dump({**content, key: "question"}))
    with pytest.raises(ConfigError, match=message):
        load_tasks(["answer"], str(tmp_path))
    if key == "unsafe_code":
        assert load_tasks(["answer"], str(tmp_path), confirm_run_unsafe_code=True)["tasks"]


def test_results_are_written_and_shown(few_defaults, model, tokenizer, tasks, tmp_path):
    group = {"group": "both", "task": ["choice", "joined"]}
    group["aggregate_metric_list"] = [{"metric": "acc", "aggregation": "mean"}]
    shutil.copytree(tasks, tmp_path / "tasks")
    (tmp_path / "tasks" / "both.yaml").write_text(yaml.safe_dump(group))
    loaded = load_tasks(["both"], str(tmp_path / "tasks"))
    results = evaluate(model, tokenizer, loaded, max_seq_length=320, limit=4, log_samples=True)
    table = results_table(results)
    assert table.index("Tasks") < table.index("joined") < table.index("Groups") and table.count("both") == 2
    path = save_results(results, tmp_path / "out")
    written = json.loads(path.read_text())
    assert path.parent == tmp_path / "out" and path.name.startswith("results_")
    assert written["results"] == json.loads(json.dumps(results["results"])) and "samples" not in written
    assert written["n-samples"]["choice"] == {"original": 9, "effective": 4}
    assert abs(written["date"] - time.time()) < 600 and written["lm_eval_version"] == version("lm_eval")
    files = sorted(file.name for file in path.parent.glob("samples_*"))
    assert len(files) == 2 and files[0].startswith("samples_choice_") and files[1].startswith("samples_joined_")
    assert len((path.parent / files[0]).read_text().splitlines()) == 4


def test_tasks_that_draw_draw_as_for_lm_eval(tasks, tmp_path):
    """Some tasks shuffle answers while they are loaded (gpqa); the order decides what is scored."""
    (tmp_path / "draws.py").write_text(
        "import random\n\ndef docs(rows):\n    return rows.map(lambda row: {'drawn': random.random()})\n"
    )
    content = yaml.safe_load((tasks / "choice.yaml").read_text()) | {"task": "drawn", "num_fewshot": 0}
    text = yaml.safe_dump(content) + "process_docs: !function draws.docs\n"
    (tmp_path / "drawn.yaml").write_text(text)
    found = [row["drawn"] for row in load_tasks(["drawn"], str(tmp_path), seed=3)["tasks"]["drawn"].eval_docs]
    draws = random.Random(0)  # lm_eval's own, whatever the seed of the examples
    assert found == [draws.random() for _ in found]
