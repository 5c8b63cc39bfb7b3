"""The admin's knobs: one table (``knobs.yaml``) and the layers in which values are looked up.

``load`` reads the layers once; a :class:`Knobs` is immutable and typed from then on. No job is ever asked.
"""

from condor_starter.knobs.layers import KnobError, Knobs, load

__all__ = ["KnobError", "Knobs", "load"]
