"""The lab: a real tiny guest, the demo fleet that boots it, and what `make run` starts. No part of the product."""


class LabError(Exception):
    """The lab can't go on; the text tells the person at the terminal why."""
