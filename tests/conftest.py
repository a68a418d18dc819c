"""For all tests: the cost model chooses alone, so that every run of the tests does the same."""

import os

os.environ["STRIATE_TUNE"] = "off"
