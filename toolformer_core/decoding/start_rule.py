"""Whether a call starts: k or a threshold on p(<API>) (paper, section 4.2)."""

from toolformer_core.config.pipeline import DecodeConfig


def is_call_start(rank: int, probability: float, config: DecodeConfig) -> bool:
    """Whether <API>, so many tokens being likelier and with this probability, starts a call."""
    if config.call_threshold is not None:
        return probability >= config.call_threshold
    return rank < config.top_k
