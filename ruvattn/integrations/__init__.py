"""Where other libraries meet this one. Each module imports the library that it is for, so nothing is imported here.

    torch.py          attention() on tensors, with gradients;  AttentionModule around a variant;  needs torch
       ▲
    transformers.py   register_with_transformers(): attn_implementation="ruvattn";  needs transformers
       │
    lazy_mask.py      masks that models hand on without looking at them, as rules instead of Lq × Lk booleans
       ▼
    ruvattn.attention, ruvattn.attention_backward

    pip install 'ruvattn[torch]'
"""

from __future__ import annotations

__all__: list[str] = []
