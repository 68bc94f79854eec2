"""What the two servers of a pair say to each other: signed calls, people over HTTP, and checks of tokens on the resource side.

`tokens` signs and judges, `peer` calls, `routes` answers. Nothing here is for anybody outside of the pair (contract identity,
section 1.8)."""
