"""Numbers in sentences, for messages, reports and screens alike."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 pair`, `2 pairs`, `1,200 pairs`; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def numbered(noun: str, numbers: Sequence[int]) -> str:
    """`round 2`, `rounds 1 and 2`, `rounds 1, 2 and 4`."""
    *others, last = map(str, numbers)
    return f"{noun}s {', '.join(others)} and {last}" if others else f"{noun} {last}"


def sized(bytes_: float) -> str:
    """`640 MB`, `1.2 GB`, `23 GB`: in steps of 1,024, as most tools show memory."""
    megabytes = bytes_ / 2**20
    if megabytes < 1000:
        return f"{megabytes:.0f} MB"
    gigabytes = megabytes / 1024
    return f"{gigabytes:.1f} GB" if gigabytes < 10 else f"{gigabytes:,.0f} GB"
