"""Whether an offer is what a job needs."""

from __future__ import annotations

from graftwork.compute.port import Need, Offer


def fits(offer: Offer, need: Need) -> bool:
    """Whether the offer has at least what is needed, where and how it is wanted."""
    return (
        offer.cores >= need.cores
        and offer.memory >= need.memory
        and offer.gpus >= need.gpus
        and (need.gpus == 0 or offer.gpu_memory >= need.gpu_memory)
        and (not need.gpu or offer.gpu in need.gpu)
        and (not need.regions or offer.region in need.regions)
        and offer.market in need.markets
    )
