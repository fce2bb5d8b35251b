"""The reference implementation for parity tests: transformers 5 on CPU PyTorch. Importing this skips where they are absent."""

import warnings

import pytest

REASON = "the reference is not installed: pip install '.[torch]' (CPU builds: Python 3.11, torch==2.13.0)"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=REASON)
    transformers = pytest.importorskip("transformers", minversion="5", reason=REASON)

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def random_model(head, **sizes):
    """A model of transformers in evaluation mode, every parameter random, so that leaving one out shows.

    Matrices keep the size of what goes through them, so that 1e-5 is far above rounding and far below a mistake.
    """
    torch.manual_seed(0)
    config = transformers.RemBertConfig(**{"bos_token_id": 1, "eos_token_id": 2, **sizes})
    config._attn_implementation = "eager"
    model = getattr(transformers, head)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            deviation = 0.3 if parameter.ndim == 1 or "embeddings" in name else parameter.shape[-1] ** -0.5
            parameter.copy_(deviation * torch.randn_like(parameter) + (1.0 if "LayerNorm.weight" in name else 0.0))
    return model
