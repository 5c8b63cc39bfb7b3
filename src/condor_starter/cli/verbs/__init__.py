"""The verbs of ``starterctl``, one module each (see :mod:`condor_starter.cli.starterctl`)."""
