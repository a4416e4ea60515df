"""The command line's grammar."""

import pytest
from omegaconf import OmegaConf

from torchtune.config import check, load, load_text
from torchtune.config.schema import FinetuneConfig
from torchtune.errors import ConfigError


def merged(words, text="a: 1\nb: {c: 2, d: {e: 3}}\nl: [1, {x: 2}]\nname: n\nout: ${name}/x\n"):
    return OmegaConf.to_container(load_text(text, "f", words).cfg, resolve=True)


@pytest.mark.parametrize(
    ("word", "get"),
    [
        ("a=2", lambda c: c["a"] == 2),
        ("a=1e-5", lambda c: c["a"] == 1e-5),
        ("a=None", lambda c: c["a"] is None),
        ("a=x=y=z", lambda c: c["a"] == "x=y=z"),
        ("b.c=x", lambda c: c["b"] == {"c": "x", "d": {"e": 3}}),
        ("b.d.e=[p,q]", lambda c: c["b"]["d"]["e"] == ["p", "q"]),
        ("b={d: {f: 1}}", lambda c: c["b"]["d"] == {"e": 3, "f": 1}),
        ("new.deep.key=1", lambda c: c["new"] == {"deep": {"key": 1}}),
        ("l.1.x=5", lambda c: c["l"] == [1, {"x": 5}]),
        ("l[0]=7", lambda c: c["l"][0] == 7),
        ("l=[9]", lambda c: c["l"] == [9]),
        ("name=m", lambda c: c["out"] == "m/x"),
        ("~a", lambda c: "a" not in c),
        ("~b.c", lambda c: c["b"] == {"d": {"e": 3}}),
        ("~b.d.e", lambda c: c["b"] == {"c": 2}),
        ("files.max_filename=00191", lambda c: c["files"]["max_filename"] == "00191"),
        ("a=", lambda c: c["a"] == ""),
        ("a={{ messages }}", lambda c: c["a"] == "{{ messages }}"),
        ("a={% if b %}{% endif %}", lambda c: c["a"] == "{% if b %}{% endif %}"),
    ],
)
def test_words_change_the_config(word, get):
    assert get(merged([word]))


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("--batch-size=4", ["key=value", "batch_size=VALUE"]),
        ("--foo", ["key=value"]),
        ("-x", ["key=value"]),
        ("word", ["expected key=value or ~key"]),
        ("config=x.yaml", ["--config"]),
        ("a..b=1", ["not a key"]),
        ("=1", ["not a key"]),
        ("~a=1", ["write ~a"]),
        ("~aa", ["no such key", "'a'"]),
        ("~b.x.y", ["no such key"]),
        ("a.b=1", ["a is a single value"]),
        ("l.7=1", ["list of 2"]),
        ("a=[1,2", ["opens ["]),
        ("a={b:", ["opens { and ", "; one with spaces is quoted for the shell"]),
        (
            "a='${'",
            ["command line: a: what begins with ${ cannot be read", "a backslash before ${ makes it plain text"],
        ),
    ],
)
def test_wrong_words_are_explained(word, parts):
    with pytest.raises(ConfigError) as e:
        merged([word])
    assert all(p in str(e.value) for p in parts), str(e.value)


def test_a_secret_in_a_wrong_word_is_not_printed():
    for word in ("--hf_token=hf_" + "a" * 30, "--api_key=opensesame", "hf_" + "b" * 34):
        with pytest.raises(ConfigError) as e:
            merged([word])
        assert "opensesame" not in str(e.value) and "aaaa" not in str(e.value) and "bbbb" not in str(e.value)


def test_replacing_a_component_keeps_only_arguments_that_it_takes(parts):
    loaded = load("config.yaml", ["dataset=parts.dataset_of_another_kind", "dataset.path=p"])
    assert OmegaConf.to_container(loaded.cfg.dataset) == {
        "_component_": "parts.dataset_of_another_kind",
        "path": "p",
    }
    assert loaded.notes == ["dataset.source: dropped, because parts.dataset_of_another_kind does not take it"]
    assert not check(loaded, FinetuneConfig)


def test_arguments_from_the_command_line_are_never_dropped(parts):
    loaded = load("config.yaml", ["optimizer=torch.optim.SGD", "optimizer.betas=[0.9,0.99]"])
    assert "betas" in loaded.cfg.optimizer and loaded.cfg.optimizer.fused and loaded.cfg.optimizer.lr == 1e-4
    assert any("does not take 'betas'" in str(p) for p in check(loaded, FinetuneConfig))


@pytest.mark.parametrize(
    "word", ["optimizer=SGD", "optimizer._component_=torch.optim.SGD", "optimizer=torch.optim.SGD"]
)
def test_forms_of_replacing_a_component(parts, word):
    assert load("config.yaml", [word]).cfg.optimizer._component_ == "torch.optim.SGD"


def test_a_nested_component_is_replaced_by_its_path(parts):
    words = ["dataset.transform={_component_: parts.Options, width: 3, depth: 1}", "dataset.transform=parts.Logger"]
    loaded = load("config.yaml", words[:1])
    (parts / "nested.yaml").write_text(OmegaConf.to_yaml(loaded.cfg))
    loaded = load("nested.yaml", words[1:])
    assert OmegaConf.to_container(loaded.cfg.dataset.transform) == {"_component_": "parts.Logger"}
    assert len(loaded.notes) == 2


def test_required_components_cannot_be_removed_but_optional_ones_can(parts):
    with pytest.raises(ConfigError, match="a run needs this component"):
        load("config.yaml", ["~model"])
    loaded = load("config.yaml", ["~profiler"])
    assert "profiler" not in loaded.cfg and not check(loaded, FinetuneConfig)


def test_faults_of_overrides_say_command_line(parts):
    found = check(load("config.yaml", ["batchsize=4", "optimizer.lrr=1"]), FinetuneConfig)
    assert [str(p).partition(":")[0] for p in found] == ["command line"] * 2
    assert "'batch_size'" in str(found[0]) and "'lr'" in str(found[1])


def test_arguments_may_follow_a_component_given_by_name(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("output_dir: out\n")
    words = ["lr_scheduler=get_cosine_schedule_with_warmup", "lr_scheduler.num_warmup_steps=2"]
    node = load(path, words).cfg.lr_scheduler
    assert node._component_ == "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
    assert node.num_warmup_steps == 2


@pytest.mark.parametrize(
    ("word", "places"),
    [
        ("b.d.new=1", {"b": "f:2", "b.d": "f:2", "b.d.e": "f:2", "b.d.new": "command line"}),
        ("b={c: 3, x: 1}", {"b": "f:2", "b.c": "command line", "b.x": "command line", "b.d.e": "f:2"}),
        ("new.deep.key=1", {"new": "command line", "new.deep": "command line", "new.deep.key": "command line"}),
        ("b={d: {1: x}}", {"b.d.1": "command line", "b.d.e": "f:2"}),
        ("name={x: 1}", {"name": "command line"}),
    ],
)
def test_only_what_a_word_sets_has_its_place_there(word, places):
    found = load_text("a: 1\nb: {c: 2, d: {e: 3}}\nname: n\n", "f", [word]).positions
    assert {key: str(found[key]) for key in places} == places


@pytest.mark.parametrize("word", ["data_checks.no_targt=off", "data_checks={no_targt: off}"])
@pytest.mark.parametrize("text", ["", "data_checks: {cut_answer: warn}\n"])
def test_a_misspelt_data_check_is_blamed_on_the_word(parts, word, text):
    path = parts / "config.yaml"
    path.write_text(path.read_text() + text)
    (found,) = check(load("config.yaml", [word]), FinetuneConfig)
    assert str(found).startswith("command line: data_checks has no 'no_targt'")


def test_a_misspelt_data_check_is_blamed_on_the_file(parts):
    path = parts / "config.yaml"
    path.write_text("data_checks:\n  cut_answr: warn\n" + path.read_text())
    (found,) = check(load("config.yaml", ["data_checks.no_target=off"]), FinetuneConfig)
    assert str(found).startswith("config.yaml:2: data_checks has no 'cut_answr'")
