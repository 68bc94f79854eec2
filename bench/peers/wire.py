"""The 2 KB body of the POST cases, as the same struct for the bare peer and for the product's edge."""

from __future__ import annotations

from typing import Annotated

import msgspec

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class Item(msgspec.Struct, frozen=True, rename="camel"):
    """One of the list's entries."""

    id: Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
    encrypted_data: Text
    nonce: Annotated[str, msgspec.Meta(max_length=256)]
    haex_timestamp: Annotated[str, msgspec.Meta(max_length=256)]
    size: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Order(msgspec.Struct, frozen=True, rename="camel"):
    """The body: about 2 KB in eight items."""

    vault_id: Annotated[str, msgspec.Meta(min_length=36, max_length=36)]
    device_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    items: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=100)]
    note: str | None = None


class Receipt(msgspec.Struct, frozen=True):
    """The answer."""

    count: int
    bytes: int


def body(size: int = 2048) -> bytes:
    """An `Order` of exactly `size` bytes."""
    items = [
        Item(
            f"0b5b6f0e-4a7e-4c0e-9a4e-{n:012x}", "A" * 64, "AAECAwQFBgcICQoL", "7558151829870018560/b1a2f3c4d5e6f708", n
        )
        for n in range(8)
    ]
    order = Order("7c1b1f0e-4a7e-4c0e-9a4e-0d7c3f2a1b00", "laptop", items, "")
    missing = size - len(msgspec.json.encode(order))
    if missing < 0:
        raise ValueError(f"an order of 8 items does not fit into {size} bytes")
    return msgspec.json.encode(Order(order.vault_id, order.device_id, items, "x" * missing))
