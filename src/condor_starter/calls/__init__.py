"""How a starter is called: its flags, and which door they mean.

The same whether the flags are our own process's (:mod:`condor_starter.cli.condor_starter`) or a thin client's
(:mod:`condor_starter.daemon.pool`).
"""
