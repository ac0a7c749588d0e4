"""What the model reads of a caption: stored encoder outputs, assembled as Stable Diffusion 3 consumes them."""

from trainer.conditioning.assemble import Conditioning, assemble
from trainer.conditioning.config import ConditioningConfig
from trainer.conditioning.dropout import keep_mask
from trainer.conditioning.layout import ContextLayout, Slot, context_layout

__all__ = ["Conditioning", "ConditioningConfig", "ContextLayout", "Slot", "assemble", "context_layout", "keep_mask"]
