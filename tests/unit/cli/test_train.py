"""What ``graft train`` asks of the server."""

from graftwork.cli.train import Tuning


def test_nothing_given_leaves_everything_to_the_rules():
    assert Tuning().request("sft") == {
        "method": {"type": "supervised", "supervised": {"hyperparameters": {}}},
        "graftwork": {},
    }


def test_dpo_is_openais_method():
    assert Tuning(beta=0.2, epochs=2, rank=4).request("dpo") == {
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.2}}},
        "graftwork": {"lora": {"rank": 4}},
    }


def test_other_methods_stand_under_our_own_key():
    found = Tuning(beta=0.3, lora_plus=8.0, trainer="trl").request("orpo")
    assert found["method"]["type"] == "supervised"
    assert found["graftwork"] == {
        "lora_plus": 8.0,
        "trainer": "trl",
        "method": "orpo",
        "preference": {"beta": 0.3},
    }
    assert Tuning().request("cpt")["graftwork"] == {"method": "cpt"}
