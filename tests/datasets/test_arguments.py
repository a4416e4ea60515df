"""The names that builders hand on are those that the `datasets` package takes."""

import dataclasses
import importlib
import inspect

from torchtune.datasets._arguments import LoadArguments

# What only this library reads
OURS = {"shuffle_buffer", "filter_kwargs"}
# What the package takes no more, and old configs have
OLD = {"trust_remote_code"}
# Where text is read from; what reads pictures, sounds and proteins has other arguments
READERS = ("json.JsonConfig", "csv.CsvConfig", "parquet.ParquetConfig", "text.TextConfig", "arrow.ArrowConfig",
           "pandas.PandasConfig", "xml.XmlConfig", "sql.SqlConfig", "conll.ConllConfig")  # fmt: skip


def test_the_names_are_those_of_the_installed_package():
    import datasets

    known = set(inspect.signature(datasets.load_dataset).parameters) - {"path", "config_kwargs"}
    for reader in READERS:
        module, _, name = reader.partition(".")
        config = getattr(importlib.import_module(f"datasets.packaged_modules.{module}.{module}"), name)
        known |= {field.name for field in dataclasses.fields(config)}
    assert known | OURS | OLD == LoadArguments.__annotations__.keys()
