"""The late-interaction model, its processor and its configuration."""

from .configuration_optical import OpticalConfig
from .modeling_optical import OpticalModel, OpticalOutput
from .processing_optical import OpticalProcessor


__all__ = ["OpticalConfig", "OpticalModel", "OpticalOutput", "OpticalProcessor"]
