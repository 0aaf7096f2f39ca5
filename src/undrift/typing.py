"""Shape aliases, read by people always and by the test-suite at run time.

`b` is the batch, `*e` the event (the shape of one sample), `d` an event flattened to a vector, `k` components or symbols.
Times are deliberately loose (`Time`): their shape is checked by `undrift.core.pad`, whose error tells the cure.
"""

from jaxtyping import Float, Int
from torch import Tensor

State = Float[Tensor, "b *e"]
"""A batch of states: shape (B, *E), codec units."""

Tokens = Int[Tensor, "b *e"]
"""A batch of symbols: shape (B, *E), integers 0..K-1."""

PerSample = Float[Tensor, "b"]
"""One number per sample: shape (B,)."""

Time = Float[Tensor, "..."]
"""Times in [0, 1], 0 = data, 1 = reference: shape () or (B,)."""
