"""fetch: what a config needs from elsewhere: base model, data sets. The only stage with a network."""

from __future__ import annotations

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.console import stage
from solotune.stages.fetch import base_model, data_set, suite


def run(config: RunConfig) -> ModelDir:
    """Brings what `config` names and isn't there: data set of the hub, base model, rows of evaluation.suite.tasks.

    Raises:
        ModelError: the base model can't be found, reached or used.
        DataError: the same of the data set, or of a task's rows.
        ArtifactError: what is there already is unfinished or damaged.
    """
    with stage("fetch"):
        tasks = suite.find(config.evaluation.suite)  # a misspelt name is told before gigabytes come
        if config.dataset.hub:  # first: it is the smaller one, and more often misspelt
            data_set.bring(config.dataset.hub, config.dataset.raw_files)
        model = base_model.bring(config.model)
        if tasks:
            suite.bring(tasks)
        return model
