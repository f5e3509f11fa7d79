"""Keys of a config are named as upstream names them."""

import dataclasses
import inspect

import peft
import pytest
import transformers
import trl

from solotune.config import schema


@pytest.mark.parametrize(
    ("section", "upstream"),
    [
        (schema.TrainingConfig, trl.SFTConfig),
        (schema.LoraConfig, peft.LoraConfig),
    ],
)
def test_every_key_is_a_field_upstream(section: type[schema.Section], upstream: type):
    assert section.model_fields.keys() <= {field.name for field in dataclasses.fields(upstream)}


def test_every_key_of_quantization_is_an_argument_upstream():
    upstream = inspect.signature(transformers.BitsAndBytesConfig.__init__).parameters
    assert schema.QuantizationConfig.model_fields.keys() <= upstream.keys()
