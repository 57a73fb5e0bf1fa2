"""Training in plain NumPy: optimisers, schedules, losses, and a small loop.

    batch ──► step function ──────────────────────────────► loss, gradients ──► accumulate, clip ──► Optimizer.step ──► parameters, in place
              layer(…) ─► loss with gradients ─► layer.backward                    gradients.py       optimizers.py        ▲
                          losses.py                                                                  riemannian.py        │
                                                                                                     ▲ schedules.py       │
              Trainer (trainer.py) runs this over epochs: validation, early stopping, history, checkpoints ───────────────┘

    optimizers.py     SGD, Adam, AdamW, RMSprop, on base.py;  riemannian.py  RiemannianSGD, RiemannianAdam, for points of manifolds
    schedules.py      learning rates and temperatures by the step
    losses.py         mse_loss, cross_entropy_loss, kl_loss;  contrastive.py  info_nce_loss, triplet_loss: each with the gradients of all inputs
    gradients.py      clipping, and the mean over several batches
    consolidation.py  ElasticWeightConsolidation: learn a task without forgetting another
    trainer.py        Trainer;  batches.py  iterate_batches
    checks.py         checks of parameters and gradients by name

All of it works on mappings of names to arrays, such as the `parameters` of a variant and the ``params`` of its gradients, and knows nothing of what
they belong to.
"""

from __future__ import annotations

from .base import Optimizer
from .batches import iterate_batches
from .consolidation import ElasticWeightConsolidation
from .contrastive import InfoNCEGradients, TripletGradients, info_nce_loss, triplet_loss
from .gradients import GradientAccumulator, add_gradients, clip_gradients, gradient_norm
from .losses import CrossEntropyGradients, KLGradients, MSEGradients, cross_entropy_loss, kl_loss, mse_loss
from .optimizers import SGD, Adam, AdamW, RMSprop
from .riemannian import RiemannianAdam, RiemannianSGD
from .schedules import Constant, OneCycle, Schedule, StepDecay, Temperature, WarmupCosine
from .trainer import Trainer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "CrossEntropyGradients",
    "ElasticWeightConsolidation",
    "GradientAccumulator",
    "InfoNCEGradients",
    "KLGradients",
    "MSEGradients",
    "OneCycle",
    "Optimizer",
    "RMSprop",
    "RiemannianAdam",
    "RiemannianSGD",
    "Schedule",
    "StepDecay",
    "Temperature",
    "Trainer",
    "TripletGradients",
    "WarmupCosine",
    "add_gradients",
    "clip_gradients",
    "cross_entropy_loss",
    "gradient_norm",
    "info_nce_loss",
    "iterate_batches",
    "kl_loss",
    "mse_loss",
    "triplet_loss",
]
