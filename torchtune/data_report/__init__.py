"""What a config's data becomes: counts, lengths, packing, checks and samples, without a model."""

from torchtune.data_report._page import as_page
from torchtune.data_report._report import Options, Report, report_on
from torchtune.data_report._terminal import as_text

__all__ = ["Options", "Report", "as_page", "as_text", "report_on"]
