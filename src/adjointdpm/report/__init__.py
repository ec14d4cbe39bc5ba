"""Reports: one self-contained HTML file of text, tables, pictures and curves, and picture sheets as PNG."""

from adjointdpm.report.blocks import Block, Chart, Code, Facts, Pictures, Section, Table, Text
from adjointdpm.report.figures import bar_chart, curves
from adjointdpm.report.html import render_report
from adjointdpm.report.pictures import picture_sheet, to_pil

__all__ = [
    "Block",
    "Chart",
    "Code",
    "Facts",
    "Pictures",
    "Section",
    "Table",
    "Text",
    "bar_chart",
    "curves",
    "picture_sheet",
    "render_report",
    "to_pil",
]
