import pytest

from graftwork.compute.local.provider import LocalProvider
from graftwork.compute.port import Deadlines, Need
from graftwork.compute.registry import PROVIDERS, create_provider
from graftwork.core.errors import InvalidRequest
from graftwork.testing.fake_clock import FakeClock


async def test_a_provider_is_made_by_name_with_its_options(tmp_path):
    clock = FakeClock()
    options = {"slots": 1, "price_per_hour": 360_000, "gpu": "H100", "gpus": 1, "gpu_memory": 80 << 30}
    provider = create_provider("local", root=tmp_path / "m", clock=clock, options=options)
    assert isinstance(provider, LocalProvider) and isinstance(provider, Deadlines)
    [offer] = await provider.offers(Need(gpus=1, gpu=("H100",), gpu_memory=1 << 30))
    assert (offer.price_per_hour, offer.gpu, offer.fetched_at) == (360_000, "H100", clock.now())
    assert provider.name in PROVIDERS


def test_an_unknown_provider_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(InvalidRequest) as refused:
        create_provider("lokal", root=tmp_path, clock=FakeClock())
    assert refused.value.code == "unknown_provider"
    assert "'lokal'" in refused.value.text and "local" in refused.value.fix


@pytest.mark.parametrize("options", [{"slot": 1}, {"slots": 0}, {"price_per_hour": -1}, {"grace": "long"}])
def test_wrong_options_are_refused_with_the_options_there_are(tmp_path, options):
    with pytest.raises(InvalidRequest) as refused:
        create_provider("local", root=tmp_path, clock=FakeClock(), options=options)
    assert next(iter(options)) in refused.value.message and "price_per_hour" in refused.value.fix


async def test_the_host_is_divided_among_its_slots(tmp_path):
    whole, part = (
        create_provider("local", root=tmp_path / str(n), clock=FakeClock(), options={"slots": n})
        for n in (1, 2)
    )
    [one], [half] = await whole.offers(Need()), await part.offers(Need())
    assert half.memory == one.memory // 2 and half.cores == max(1, one.cores // 2)
