"""`striate explain`: what a net sees in a picture, as one page that needs nothing else.

`record.explain` collects everything as a JSON-able record, `page.render` makes the page of it.
"""

from __future__ import annotations

from striate.report.explain.page import render as render
from striate.report.explain.record import Picture as Picture
from striate.report.explain.record import explain as explain
from striate.report.explain.record import picture_of as picture_of
