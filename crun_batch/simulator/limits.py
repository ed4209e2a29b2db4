"""Rate limits as a gateway keeps them: buckets that fill up evenly, per key and model.

Pure but for what the buckets remember; the time is passed in, in seconds of any one clock.
"""

from __future__ import annotations

from msgspec import Struct

from crun_batch.simulator.settings import Settings


class Bucket:
    """Holds up to `burst_seconds` of a per-minute limit."""

    def __init__(self, per_minute: int, burst_seconds: float, now_seconds: float) -> None:
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._most = max(1.0, self._rate * burst_seconds)
        self.left = self._most
        self._at = now_seconds

    def refill(self, now_seconds: float) -> None:
        """Let the time since the last call count."""
        self.left = min(self._most, self.left + (now_seconds - self._at) * self._rate)
        self._at = now_seconds

    def wait_seconds(self, amount: float) -> float:
        """How long until `amount` could be taken (at most the whole bucket counts); 0 if now."""
        return max(0.0, (min(amount, self._most) - self.left) / self._rate)

    def take(self, amount: float) -> None:
        """Take it; more than the bucket holds leaves a debt."""
        self.left -= amount

    @property
    def reset_seconds(self) -> float:
        """How long until the bucket is full."""
        return (self._most - self.left) / self._rate


class LimitCheck(Struct, frozen=True):
    """Whether a request may go on, and if not, why and when to come again."""

    limited_by: str | None = None
    retry_after_seconds: float = 0.0


class RateLimits:
    """The buckets of all keys and models."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], tuple[Bucket | None, Bucket | None]] = {}
        self._made_for: tuple[int | None, int | None, float] | None = None

    def admit(self, key_name: str, model: str, tokens: int, settings: Settings, now_seconds: float) -> LimitCheck:
        """Take one request and its tokens from the buckets, or say which of them is too empty and for how long."""
        pair = self._pair(key_name, model, settings, now_seconds)
        amounts = zip(pair, (1, tokens), ("requests", "tokens"), strict=True)
        waits = [(bucket.wait_seconds(amount), name) for bucket, amount, name in amounts if bucket is not None]
        longest = max(waits, default=(0.0, ""))
        if longest[0] > 0:
            return LimitCheck(longest[1], longest[0])
        for bucket, amount in zip(pair, (1, tokens), strict=True):
            if bucket is not None:
                bucket.take(amount)
        return LimitCheck()

    def headers(
        self, key_name: str, model: str, settings: Settings, now_seconds: float, anthropic: bool
    ) -> list[tuple[str, str]]:
        """The rate-limit headers for this key and model, in OpenAI's or in Anthropic's names and forms."""
        lines = []
        for bucket, name in zip(
            self._pair(key_name, model, settings, now_seconds), ("requests", "tokens"), strict=True
        ):
            if bucket is None:
                continue
            reset = f"{bucket.reset_seconds:.3f}s"
            values = (
                ("limit", str(bucket.per_minute)),
                ("remaining", str(max(0, int(bucket.left)))),
                ("reset", reset),
            )
            lines += [
                (f"anthropic-ratelimit-{name}-{what}" if anthropic else f"x-ratelimit-{what}-{name}", value)
                for what, value in values
            ]
        return lines

    def _pair(
        self, key_name: str, model: str, settings: Settings, now: float
    ) -> tuple[Bucket | None, Bucket | None]:
        limits = (settings.requests_per_minute, settings.tokens_per_minute, settings.burst_seconds)
        if limits != self._made_for:
            self._buckets.clear()
            self._made_for = limits
        pair = self._buckets.get((key_name, model))
        if pair is None:
            pair = self._buckets[key_name, model] = (
                Bucket(limits[0], limits[2], now) if limits[0] else None,
                Bucket(limits[1], limits[2], now) if limits[1] else None,
            )
        for bucket in pair:
            if bucket is not None:
                bucket.refill(now)
        return pair
