"""fetch: what a config needs from elsewhere, pinned: base model, data set. The only stage with a network."""

from __future__ import annotations

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.console import stage
from solotune.stages.fetch import base_model, data_set


def run(config: RunConfig) -> ModelDir:
    """Brings the data set of the hub that `config` names, if any, and its base model, unless they are there.

    Raises:
        ModelError: the base model can't be found, reached or used.
        DataError: the same of the data set.
        ArtifactError: what is there already is unfinished or damaged.
    """
    with stage("fetch"):
        if config.dataset.hub:  # first: it is the smaller one, and more often misspelt
            data_set.bring(config.dataset.hub, config.dataset.raw_files)
        return base_model.bring(config.model)
