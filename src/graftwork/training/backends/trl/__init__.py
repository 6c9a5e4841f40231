"""TRL's own trainers (SFT, DPO, ORPO, KTO) on a run folder: their losses, our data, order, checkpoints.

TRL (1.16) keeps the training loop: model, loss, accumulation, clipping, optimizer step. All around it is a
``Session`` like the native trainer's: the rows and labels of ``graftwork.data``, the same order of steps, the
same held-out measure, checkpoints without pickle that a new attempt resumes from, orders obeyed after every
step, the adapter exported in our PEFT format. So what differs between two trainers is the training.
"""

from graftwork.training.backends.trl.run import Trl

__all__ = ["Trl"]
