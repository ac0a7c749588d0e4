"""Reference values of captions: transformers' own modules and tokenizers in float32, one caption at a time.

Nothing of `pipeline` computes here: no packing, no batches, no tower of ours, and attention is transformers' plain
("eager") one.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from benchmarks.encode.models import Models
from benchmarks.encode.sizes import CLIP_TOKENS
from pipeline.encoders.demo_vocabulary import demo_t5_tokenizer
from pipeline.encoders.demo_weights import clip_tokenizer
from schemas.identity import ENCODER_NAMES, Padding

_CLIP_EOS = 49407


class Reference:
    """The three encoders under one policy.

    Args:
        models: Whose weights, rounded to the dtype in which ours compute; copied to float32.
    """

    def __init__(self, models: Models) -> None:
        # TF32 has 10 bits of mantissa.
        torch.backends.cuda.matmul.allow_tf32 = False
        exact = models.copied(torch.float32)
        self._modules, self._device = exact.modules, exact.device
        for module in self._modules.values():
            module.set_attn_implementation("eager")
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {
            "clip_l": clip_tokenizer(),
            "clip_g": clip_tokenizer("!"),
            "t5": demo_t5_tokenizer(),
        }

    @torch.inference_mode()
    def encode(self, caption: str, padding: Padding, t5_tokens: int) -> dict[str, torch.Tensor]:
        """One caption alone.

        Args:
            caption: Without "!", which the tokenizer of bigG takes for its pad here.
            padding: "max_length" pads, without a mask; "none" gives the caption's own tokens.
            t5_tokens: T5's limit; the CLIPs' is 77.

        Returns:
            float32 on the device: "t5.hidden", "clip_l.hidden" and "clip_g.hidden" [T, D]; for both CLIPs "pooled" [P]
            and "eos" [D].
        """
        found: dict[str, torch.Tensor] = {}
        for name in ENCODER_NAMES:
            ids = self._tokenizers[name](
                caption,
                truncation=True,
                max_length=t5_tokens if name == "t5" else CLIP_TOKENS,
                padding="max_length" if padding == "max_length" else False,
                return_tensors="pt",
            ).input_ids.to(self._device)
            module = self._modules[name]
            if isinstance(module, T5EncoderModel):
                found["t5.hidden"] = module(ids).last_hidden_state[0]
                continue
            output = module(ids, output_hidden_states=True)
            found[f"{name}.hidden"] = output.hidden_states[-2][0]
            found[f"{name}.pooled"] = output.text_embeds[0]
            found[f"{name}.eos"] = output.last_hidden_state[0, int((ids[0] == _CLIP_EOS).int().argmax())]
        return found
