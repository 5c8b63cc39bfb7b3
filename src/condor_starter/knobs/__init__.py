"""The admin's knobs: one table (``knobs.yaml``) and the layers in which values are looked up.

``gather`` reads all layers of this machine, ``load`` those that it is given. :class:`Knobs` is immutable and
typed; no job is ever asked.
"""

from condor_starter.knobs.layers import KnobError, Knobs, gather, load

__all__ = ["KnobError", "Knobs", "gather", "load"]
