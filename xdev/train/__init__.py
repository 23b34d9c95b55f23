"""Training: one loop for every device, and the parts it is made of."""

from .evaluation import evaluate, predict
from .loop import fit
from .result import FitResult, Timing
from .state import TrainState
from .step import Step, make_step

__all__ = ["FitResult", "Step", "Timing", "TrainState", "evaluate", "fit", "make_step", "predict"]
