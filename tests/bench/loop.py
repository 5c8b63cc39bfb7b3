"""Runs a command again and again and prints what each run took in microseconds: ``loop.py CYCLES ARGV...``.

Small, so that its own forks cost as little as a C program's; every command among the peers is run by it.
"""

import os
import sys
import time


def main(cycles: int, argv: list[str]) -> None:
    """Exit status 1 at the first run that fails."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    for _ in range(cycles):
        began = time.perf_counter()
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=quiet)
        _, status = os.waitpid(pid, 0)
        took = time.perf_counter() - began
        if status:
            sys.exit(f"{argv[0]}: status {status}")
        print(f"{took * 1e6:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
