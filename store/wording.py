"""Numbers in sentences, for messages, reports and screens alike."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 pair`, `2 pairs`, `1,200 pairs`; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
