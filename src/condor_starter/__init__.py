"""A condor_starter in Python: runs other people's jobs on a shared machine.

Kept empty on purpose: the privileged process imports this package and must stay small.
"""

__version__ = "0.1.0"
