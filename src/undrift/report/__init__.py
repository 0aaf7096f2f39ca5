"""Pictures of a run: what people would rather look at than read."""

from undrift.report.page import Neighbours, Page, page_html, write_page
from undrift.report.pictures import class_grid, neighbours, noise_to_sample

__all__ = ["Neighbours", "Page", "class_grid", "neighbours", "noise_to_sample", "page_html", "write_page"]
