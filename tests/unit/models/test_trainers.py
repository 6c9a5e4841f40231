"""What each trainer is asked for that it cannot do is refused, by field."""

import pytest
from tinytraining import make_spec

from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import LoraSpec
from graftwork.models.trainers import ABILITIES, COMMANDS, configured, refuse, variable_of

ROWS = b'{"text":"a"}\n'


def spec(trainer, **changes):
    return make_spec(ROWS, trainer=trainer, **changes)


@pytest.mark.parametrize("trainer", ABILITIES)
def test_a_plain_run_is_everybodys(trainer):
    refuse(spec(trainer))


@pytest.mark.parametrize(
    ("trainer", "changes", "param"),
    [
        ("axolotl", {"method": "dpo"}, "method"),
        ("native", {"method": "kto"}, "method"),
        ("neuron", {"quantization": "nf4"}, "quantization"),
        ("unsloth", {"lora": LoraSpec(dora=True)}, "lora.dora"),
        ("nemo", {"lora": LoraSpec(rslora=True)}, "lora.rslora"),
        ("llamafactory", {"lora": LoraSpec(alpha=1.5)}, "lora.alpha"),
        ("axolotl", {"lora": LoraSpec(expert_rank=2)}, "lora.expert_rank"),
        ("unsloth", {"lora_plus": 16.0}, "lora_plus"),
        ("neuron", {"neftune_alpha": 5.0}, "neftune_alpha"),
        ("llamafactory", {"early_stopping": 1}, "early_stopping"),
        ("llamafactory", {"batch_size": 5, "accumulation": 2}, "accumulation"),
    ],
)
def test_what_it_cannot_is_refused(trainer, changes, param):
    with pytest.raises(InvalidRequest) as caught:
        refuse(spec(trainer, **changes))
    assert (caught.value.code, caught.value.param) == ("trainer_cannot", param)


def test_a_machine_has_what_its_environment_names():
    assert variable_of("llamafactory") == "GRAFTWORK_TRAINER_LLAMAFACTORY"
    environment = {"GRAFTWORK_TRAINER_AXOLOTL": "/a/python", "GRAFTWORK_TRAINER_NEMO": "", "PATH": "/bin"}
    assert configured(environment) == {"axolotl": "/a/python"}
    assert set(COMMANDS) == {"llamafactory", "axolotl", "unsloth", "nemo", "neuron"}
