"""Config keys of ITA with defaults, ranges and meanings; loading and validation of configs.

Keys known from earlier work keep their names (``MODEL.MASK_FORMER.*``, ``MODEL.SEM_SEG_HEAD.*``,
``MODEL.FC_CLIP.*``), so that configs and overrides written for Mask2Former and FC-CLIP can be used
(:mod:`ita.ancestor_keys`); ITA-specific keys are under ``MODEL.ITA``.
"""

from ita.config.config_files import load_config
from ita.config.keys import add_ita_config, flatten

__all__ = ["add_ita_config", "flatten", "load_config"]
