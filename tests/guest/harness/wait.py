# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for a condition that has no event to wait for."""
import time


def wait_for(condition, timeout, what, every=0.02):
    """Returns the first true value of condition(); TimeoutError says what did not happen."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(every)
