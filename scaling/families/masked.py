"""masked (MDLM, arXiv 2406.07524): tokens turn into MASK one by one; the network restores them.

Bound (eq. 11, continuous time): E_t [ -alpha'_t / (1 - alpha_t) * sum over masked positions of
-log p(x_0 | x_t) ]; with the log-linear schedule the weight is 1/t. `low_variance` (arXiv 2602.15014, eq. 8)
trains with the weight replaced by 1; it is no bound.

B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from scaling.families.absorbing import Absorbing


class Masked(Absorbing):
    """Absorbing-state diffusion over whole sequences."""

    name: ClassVar[str] = "masked"
    tightness: ClassVar[str] = "reached by a network that knows every token given any others"
    samplers: ClassVar[Mapping[str, str]] = {
        "ancestral": "scaling.sampling.discrete:ancestral",
        "first_hitting": "scaling.sampling.discrete:first_hitting",
        "psi": "scaling.sampling.remasking:psi",
        "remasking": "scaling.sampling.remasking:remasking",
        "confidence": "scaling.sampling.confidence:confidence",
        "threshold": "scaling.sampling.confidence:threshold",
    }
