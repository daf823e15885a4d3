"""A clean end of training on Ctrl-C or a scheduler's SIGTERM: after the current step, with a complete checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy

if TYPE_CHECKING:
    from transformers import Trainer

ECHO = 0.5  # seconds within which launcher and terminal may both deliver the same signal to a process


class TrainingInterrupted(KeyboardInterrupt):
    """Raised when a signal has stopped the training after a step.

    Args:
        signal_number: number of the signal.
        step: the last step that was trained.
        checkpoint: folder from which the training can be resumed.
    """

    def __init__(self, signal_number: int, step: int, checkpoint: str) -> None:
        self.signal_number, self.step, self.checkpoint = signal_number, step, checkpoint
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} after step {step}. Resume, bit for bit, with "
            f"`resume_from_checkpoint={checkpoint!r}` (or True for the last checkpoint)."
        )


class StopOnSignal(TrainerCallback):
    """Stop the training after the current step on the first SIGINT or SIGTERM; a second one takes effect at once.

    Several processes stop after the same step, whichever of them receives the signal first.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._previous: dict[int, Any] = {}
        self._received, self._received_at, self._process = 0, 0.0, 0
        self._stopping, self._listening, self._saved_step = False, False, -1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals while the Trainer trains in the block; the previous handlers are restored afterwards.

        Raises:
            TrainingInterrupted: at the end of the block, if a signal stopped the training.
        """
        self._received, self._stopping, self._listening, self._saved_step = 0, False, True, -1
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._install()
        try:
            yield
        finally:
            self._listening = False
            self._restore()
        if self._stopping:
            step = self._trainer.state.global_step
            folder = os.path.join(str(self._trainer.args.output_dir), f"checkpoint-{step}")
            raise TrainingInterrupted(self._received, step, folder)
        if self._received:  # received after the last step: leave it to the previous handler
            signal.raise_signal(self._received)

    def _install(self) -> None:
        numbers = [signal.SIGINT]
        if not getattr(self._trainer.args, "enable_jit_checkpoint", False):  # which has its own handler
            numbers.append(signal.SIGTERM)
        for number in numbers:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # keep an ignored one (nohup) ignored
                self._previous[number] = signal.signal(number, self._receive)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a data loader's worker, forked with this handler
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return  # Ctrl-C reaches the workers too, and the current step still needs their batches
        if self._received:
            if self._trainer.args.world_size > 1 and time.monotonic() - self._received_at < ECHO:
                return
            self._restore()
            signal.raise_signal(number)
            return
        self._received, self._received_at = number, time.monotonic()
        if self._trainer.args.process_index == 0:  # not `print`, which the signal may have interrupted
            os.write(2, b"\nStopping after this step, with a checkpoint. A second signal stops at once.\n")

    def _agreed(self) -> bool:
        """Return True if any process received a signal; every process must call it at the same step."""
        if self._trainer.args.world_size > 1:
            told = torch.tensor([self._received], device=self._trainer.args.device)
            self._received = int(self._trainer.accelerator.gather(told).max())
        return bool(self._received)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember the step that was saved."""
        self._saved_step = state.global_step

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop and save, unless the epoch ends here: its evaluation comes first, as in an uninterrupted run."""
        if not self._listening or _epoch_ends(state):
            return
        if self._agreed() and not _save_is_up_to_evaluation(args, control):
            self._stopping = control.should_training_stop = control.should_save = True

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop and save after the epoch's last step.

        The Trainer also calls it after it has left an epoch early; then it must not log, evaluate or save.
        """
        if not self._listening:
            return
        if self._stopping:
            control.should_log = control.should_evaluate = control.should_save = False
        elif self._agreed() and not _save_is_up_to_evaluation(args, control):
            self._stopping = control.should_training_stop = True
            control.should_save |= control.should_evaluate or self._saved_step != state.global_step


def _save_is_up_to_evaluation(args: Any, control: TrainerControl) -> bool:
    """Return True if only the best checkpoint is saved and this step evaluates; the stop then waits a step."""
    return args.save_strategy == SaveStrategy.BEST and bool(control.should_evaluate)


def _epoch_ends(state: TrainerState) -> bool:
    return float(state.epoch or 0.5).is_integer()
