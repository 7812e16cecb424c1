"""A span of time to spend."""

import time


class Budget:
    """Counts down from `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(self._end - time.monotonic(), 0.0)

    def share(self, fraction: float) -> "Budget":
        """Returns a budget of this fraction of what is left."""
        return Budget(self.left() * fraction)
