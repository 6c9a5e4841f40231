"""A version's id changes with any byte, name, file or word of its manifest, and with nothing else."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from graftwork.registry import Receipt, canonical, manifest, receipt_of, version_id

NAMES = st.text("abcdefghij._-", min_size=1, max_size=12)
FILES = st.dictionaries(NAMES, st.binary(min_size=1, max_size=64), min_size=1, max_size=5)


def identify(files: dict[str, bytes], receipt: Receipt) -> str:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return version_id(manifest(digests, receipt))


@given(files=FILES, data=st.data())
def test_any_byte_flip_added_removed_or_renamed_file_changes_the_id(files, data, receipt: Receipt):
    before = identify(files, receipt)
    name = data.draw(st.sampled_from(sorted(files)))
    place = data.draw(st.integers(0, len(files[name]) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    flipped = bytearray(files[name])
    flipped[place] ^= bit
    new_name = data.draw(NAMES.filter(lambda n: n not in files))
    rest = {n: d for n, d in files.items() if n != name}
    changed = [
        {**files, name: bytes(flipped)},
        {**files, new_name: b""},
        rest,
        {**rest, new_name: files[name]},
    ]
    assert before not in {identify(other, receipt) for other in changed}


@given(files=FILES)
def test_the_order_of_files_does_not_matter(files, receipt: Receipt):
    assert identify(files, receipt) == identify(dict(reversed(files.items())), receipt)


@pytest.mark.parametrize("field", sorted(Receipt.model_fields))
def test_every_field_of_the_receipt_counts(field: str, receipt: Receipt):
    changes = {
        "base": receipt.base.model_copy(update={"revision": "other"}),
        "train": receipt.train.model_copy(update={"rows": 1}),
        "lora": receipt.lora.model_copy(update={"rank": 4}),
        "asked": receipt.asked.model_copy(update={"n_epochs": 9}),
        "schedule": receipt.schedule.model_copy(update={"decay": "linear"}),
        "evaluation": None,
        "valid": None,
    }
    other = changes.get(field, f"other {field}")
    changed = receipt.model_copy(update={field: other})
    with_files = {"a": "0" * 64}
    one, two = manifest(with_files, receipt), json.loads(changed.model_dump_json(warnings=False))
    assert version_id(one) != version_id({**one, "receipt": two})


def test_a_manifest_survives_storage(receipt: Receipt):
    document = manifest({"b": "1", "a": "2"}, receipt)
    stored = json.loads(json.dumps(document))
    assert version_id(stored) == version_id(document) == hashlib.sha256(canonical(document)).hexdigest()
    assert receipt_of(stored) == receipt


def test_the_canonical_form_is_the_known_one():
    assert canonical({"b": 1, "a": ["ü", 0.5, None, True]}) == '{"a":["ü",0.5,null,true],"b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def test_a_receipt_without_its_lineage_is_none(receipt: Receipt):
    for field in (
        "base",
        "tokenizer_hash",
        "template_hash",
        "train",
        "code_version",
        "seed",
        "trained_tokens",
    ):
        incomplete = {key: value for key, value in receipt.model_dump().items() if key != field}
        with pytest.raises(ValidationError):
            Receipt.model_validate(incomplete)
