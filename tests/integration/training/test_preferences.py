"""Preferences on the built-in model: held-out accuracy rises, by every method."""

import hashlib
from pathlib import Path

import pytest
from tinyruns import curve, result
from tinytraining import make_spec

from graftwork.core.specs import LoraSpec, PreferenceOptions
from graftwork.core.states import Outcome
from graftwork.data.rows import canonical, read_canonical
from graftwork.models import Catalogue, base_ref
from graftwork.registry import require_adapter
from graftwork.runs.folder import prepare
from graftwork.runs.transport import LocalTransport
from graftwork.training import main

EXAMPLES = Path(__file__).parents[3] / "src/graftwork/data/examples"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


def rows(part, count):
    return canonical(read_canonical((EXAMPLES / f"manners.{part}.jsonl").read_bytes())[:count])


@pytest.mark.parametrize(
    ("method", "trainer", "rate"),
    [("dpo", "native", 2e-3), ("orpo", "trl", 2e-3), ("kto", "trl", 2e-3)],
)
def test_held_out_preference_accuracy_rises(tmp_path, capsys, method, trainer, rate):
    train, valid = rows("train", 72), rows("valid", 24)
    spec = make_spec(
        train,
        valid,
        base=base_ref(Catalogue().get("seedling")),
        lora=LoraSpec(rank=8, alpha=16),
        method=method,
        trainer=trainer,
        preference=PreferenceOptions(beta=0.1),
        n_epochs=1,
        batch_size=8,
        learning_rate=rate,
        eval_every=9,
        max_length=160,
    )
    assert spec.train.sha256 == hashlib.sha256(train).hexdigest()
    prepare(LocalTransport(tmp_path / "run"), spec, train, valid)
    uri = str(tmp_path / "run")
    assert main([uri]) == 0
    done = result(uri)
    assert done.outcome is Outcome.SUCCEEDED
    measured = [step["extra"] for step in curve(uri).values() if "eval_logps/accuracies" in step["extra"]]
    ranked = [extra["eval_logps/accuracies"] for extra in measured]
    won = [extra["eval_rewards/accuracies"] for extra in measured]
    with capsys.disabled():
        before = done.extra["base_logps/accuracies"]
        print(f"\n{method} by {trainer}: ranked right {before} {ranked}, won {won}, loss {done.valid_loss}")
    assert ranked[-1] >= 0.8 > done.extra["base_logps/accuracies"]
    assert won[-1] >= (0.8 if method == "orpo" else 0.95)
    assert done.valid_loss is not None and done.base_valid_loss is not None
    assert done.valid_loss < done.base_valid_loss
    assert done.adapter is not None
    require_adapter(Path(uri) / done.adapter.dir)
