"""Configurations as the command line composes them."""

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sparsemm.cli.running import version_base
from sparsemm.configs import shipped


def composed(verb: str, *overrides: str) -> dict[str, Any]:
    """The resolved configuration of ``sparsemm VERB OVERRIDES``."""
    with initialize_config_dir(str(shipped("eval_configs")), **version_base()):
        config: Any = OmegaConf.to_container(
            compose(verb, list(overrides)), resolve=True, throw_on_missing=True
        )
    return config
