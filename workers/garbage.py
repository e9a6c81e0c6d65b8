"""When Python looks for garbage: not while a worker starts, and after that not among what has come to stay.

In its first seconds a worker of a thousand VMs makes 230,000 objects and keeps them. To look through all that there is
again and again took half of its processor time then; and each later look would hold up everybody for 0.1 to 0.2 s.

Source: Python docs, ``gc``: a full collection follows when a quarter has been added since the last, and looks at
everything but what is frozen.
"""

import gc

SETTLED_S = 3.0
"""How long after its start a worker has what it keeps, as a rule."""


def rest() -> None:
    """Look for none; what nobody refers to is freed at once all the same, unless it refers to itself."""
    gc.disable()


def resume() -> None:
    """Look once, leave alone what is there now for good, and look among what comes after it from now on."""
    gc.collect()
    gc.freeze()
    gc.enable()
