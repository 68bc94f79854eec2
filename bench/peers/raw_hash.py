"""Raw password hashing: as many threads as the product's pool check passwords with its parameters, and nothing else.

A process of its own on the server's core. For each number of seconds on a line of its standard input it answers one JSON line.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import argon2

from hapta.identity.passwords import hash_threads
from hapta.settings import IdentitySettings

PASSWORD = "correct horse battery staple"


def main() -> None:
    """Answers until its input ends."""
    policy = IdentitySettings()
    hasher = argon2.PasswordHasher(
        time_cost=policy.argon2_iterations, memory_cost=policy.argon2_memory_kib, parallelism=1
    )
    stored = hasher.hash(PASSWORD)
    for line in sys.stdin:
        until = time.perf_counter() + float(line)
        counts: list[int] = []

        def check(until: float = until, counts: list[int] = counts) -> None:
            count = 0
            while time.perf_counter() < until:
                hasher.verify(stored, PASSWORD)
                count += 1
            counts.append(count)

        began, cpu = time.perf_counter(), time.process_time()
        threads = [threading.Thread(target=check) for _ in range(hash_threads(policy))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = sum(counts)
        answer = {
            "rate": done / (time.perf_counter() - began),
            "per_core_second": done / (time.process_time() - cpu),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
